#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
{% include "region.c" %}
{% include "populate.c" %}
{% include "status.c" %}
static struct {
	pid_t pid, fork;
	int order, answer; /* pipes */
} holder[FORKS];

/* A process with a piece of the memory: forks for each 'f', ends the fork at the next order. */
static void hold(int orders, int answers)
{
	pid_t pid = 0;
	char order;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	map(PIECE);
	populate(PIECE);
	while (write(answers, &pid, sizeof(pid)) == sizeof(pid) && read(orders, &order, 1) == 1) {
		if (pid) {
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
		}
		pid = order == 'f' ? fork() : 0;
		if (order == 'f' && !pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				pause();
		}
	}
	_exit(0);
}

static pid_t ask(int k, char order)
{
	pid_t pid = -1;

	if (write(holder[k].order, &order, 1) != 1)
		err(1, "write");
	if (read(holder[k].answer, &pid, sizeof(pid)) != sizeof(pid) || pid < 0)
		errx(1, "process %d did not answer", k);
	return pid;
}

static void setup(void)
{
	for (int k = 0; k < FORKS; k++) {
		int orders[2], answers[2];
		pid_t none;

		if (pipe(orders) || pipe(answers))
			err(1, "pipe");
		holder[k].pid = fork();
		if (!holder[k].pid) {
			close(answers[0]);
			hold(orders[0], answers[1]);
		}
		close(orders[0]);
		close(answers[1]);
		holder[k].order = orders[1];
		holder[k].answer = answers[0];
		if (read(answers[0], &none, sizeof(none)) != sizeof(none))
			errx(1, "process %d did not start", k);
	}
}

static void prepare(void)
{
}

/* Each process forks on the CPU of this thread. */
static void work(long start, long end)
{
	for (long k = start; k < end; k++) {
		cpu_set_t here;

		CPU_ZERO(&here);
		CPU_SET(sched_getcpu(), &here);
		sched_setaffinity(holder[k].pid, sizeof(here), &here);
		holder[k].fork = ask(k, 'f');
	}
}

static void check(void)
{
	for (int k = 0; k < FORKS; k++) {
		if (!holder[k].fork || status_bytes(holder[k].fork, "RssAnon:") < PIECE)
			errx(1, "fork %d does not have the memory mapped", k);
		holder[k].fork = ask(k, 'k');
	}
}

