{% extends "skeleton.c" %}
{% block top %}
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
{% include "base.c" %}
static int pids[FORKS], sockets[FORKS], forks[FORKS];

/* A process with a piece of memory: forks, or ends the fork that it is sent. */
static void serve(int socket)
{
	struct rusage usage;
	int pid = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
{% include "map.c" %}
	DO(madvise(mem, PIECE, MADV_POPULATE_WRITE));
	while (write(socket, &pid, 4) && read(socket, &pid, 4))
		if (pid) {
			DO(kill(pid, SIGKILL));
			DO(wait4(pid, NULL, 0, &usage));
			CHECK(usage.ru_maxrss >= PIECE / 1024);
			pid = 0;
		} else if (!(pid = fork())) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			pause();
		}
}

/* On the CPU of this thread, a process forks, or ends its fork. */
static void ask(int k)
{
	cpu_set_t here;

	DO(sched_getaffinity(0, sizeof(here), &here));
	DO(sched_setaffinity(pids[k], sizeof(here), &here));
	DO(write(sockets[k], &forks[k], 4));
	CHECK(read(sockets[k], &forks[k], 4) > 0);
}
{% endblock %}
{% block setup %}
	for (int k = 0, ends[2]; k < FORKS; k++) {
		DO(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends));
		sockets[k] = ends[0];
		DO(pids[k] = fork());
		if (!pids[k])
			serve(ends[1]);
		close(ends[1]);
		CHECK(read(sockets[k], &forks[k], 4) > 0);
	}
{% endblock %}
{% block work %}
		for (long k = at; k < {{ end }}; k++)
			ask(k);
{% endblock %}
{% block check %}
	for (int k = 0; k < FORKS; k++) {
		CHECK(forks[k]);
		ask(k);
	}
{% endblock %}
