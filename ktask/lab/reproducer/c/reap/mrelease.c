{% extends "skeleton.c" %}
{% block top %}
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
{% include "base.c" %}
static int pid, pidfd, killed, covered;

/* The process fills its memory on the CPU of the caller and stops. */
static void hold(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
{% include "map.c" %}
	for (int k = 1; k < MAPPINGS; k += 2) { /* cut by a flag */
		char *from = mem + SIZE / ALIGN * k / MAPPINGS * ALIGN;
		char *to = mem + SIZE / ALIGN * (k + 1) / MAPPINGS * ALIGN;

		to = k + 1 < MAPPINGS ? to : mem + SIZE;
		DO(madvise(from, to - from, MADV_DONTDUMP));
	}
	DO(madvise(mem, SIZE, MADV_POPULATE_WRITE));
	raise(SIGSTOP);
}

static void reap(long at, long end)
{
	if (at == 0) {
		DO(kill(pid, SIGKILL));
		__atomic_store_n(&killed, 1, __ATOMIC_RELEASE);
		DO(waitpid(pid, NULL, 0));
	} else {
		while (!__atomic_load_n(&killed, __ATOMIC_ACQUIRE))
			sched_yield();
		if (syscall(448 /* process_mrelease, Linux 5.15 */, pidfd, 0))
			CHECK(errno == ESRCH || errno == EAGAIN);
	}
	__atomic_fetch_add(&covered, end - at, __ATOMIC_ACQ_REL);
}
{% endblock %}
{% block variables %}
	int status;
{% endblock %}
{% block prepare %}
	DO(pid = fork());
	if (!pid)
		hold();
	DO(waitpid(pid, &status, WUNTRACED));
	CHECK(WIFSTOPPED(status));
	DO(pidfd = syscall(SYS_pidfd_open, pid, 0));
	killed = covered = 0;
{% endblock %}
{% block work %}
		reap(at, {{ end }});
{% endblock %}
{% block check %}
	CHECK(covered == UNITS);
	CHECK(kill(pid, 0) && errno == ESRCH); /* it is gone */
	close(pidfd);
{% endblock %}
