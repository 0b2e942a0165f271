#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
{% include "region.c" %}
{% include "populate.c" %}
{% include "status.c" %}
static pid_t pids[FORKS];

static void setup(void)
{
	map(PIECE);
	populate(PIECE);
}

static void prepare(void)
{
}

/* The system call itself: fork() of libc would take turns for the locks of malloc. */
static void work(long start, long end)
{
	for (long k = start; k < end; k++) {
		pids[k] = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
		if (pids[k] < 0)
			err(1, "clone");
		if (!pids[k]) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				pause();
		}
	}
}

static void check(void)
{
	for (int k = 0; k < FORKS; k++) {
		if (!pids[k] || status_bytes(pids[k], "RssAnon:") < PIECE)
			errx(1, "child %d does not have the memory mapped", k);
		kill(pids[k], SIGKILL);
		waitpid(pids[k], NULL, 0);
		pids[k] = 0;
	}
}

