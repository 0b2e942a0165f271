{% extends "skeleton.c" %}
{% block top %}
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
{% include "base.c" %}
static int pids[FORKS];

/* The system call itself: fork() of libc waits for the locks of malloc. */
static void fork_here(int k)
{
	DO(pids[k] = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
	if (!pids[k]) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pause();
	}
}
{% endblock %}
{% block variables %}
	struct rusage usage;
{% endblock %}
{% block setup %}
{% include "map.c" %}
	DO(madvise(mem, PIECE, MADV_POPULATE_WRITE));
{% endblock %}
{% block work %}
		for (long k = at; k < {{ end }}; k++)
			fork_here(k);
{% endblock %}
{% block check %}
	for (int k = 0; k < FORKS; k++) {
		CHECK(pids[k] && !kill(pids[k], SIGKILL));
		DO(wait4(pids[k], NULL, 0, &usage));
		CHECK(usage.ru_maxrss >= PIECE / 1024); /* it had the memory */
		pids[k] = 0;
	}
{% endblock %}
