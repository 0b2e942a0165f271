#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
{% include "region.c" %}
{% if page_kind == "THP" %}{% include "smaps.c" %}{% endif %}
static struct child {
	pid_t pid;
	long end; /* of its part */
	int status;
} child[THREADS];

static void setup(void)
{
}

/* In the child: hold a part, stop as a sign of that, and wait to be killed. */
static void hold(long bytes)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	map(bytes);
	if (madvise(base, bytes, MADV_POPULATE_WRITE))
		_exit(1);
{% if page_kind == "THP" %}
	if (smaps_bytes("AnonHugePages:") != bytes)
		_exit(1);
{% endif %}
	raise(SIGSTOP);
	for (;;)
		pause();
}

/* As many children as threads hold the range between them, on one CPU each. */
static void prepare(void)
{
#pragma omp parallel num_threads(threads)
	{
		long k = omp_get_thread_num(), pages = SIZE / PAGE, start = pages * k / threads * PAGE;
		struct child *own = &child[k];

		own->end = pages * (k + 1) / threads * PAGE;
		own->status = 0;
		own->pid = fork();
		if (!own->pid)
			hold(own->end - start);
		if (waitpid(own->pid, &own->status, WUNTRACED) < 0 || !WIFSTOPPED(own->status))
			errx(1, "a child could not hold its part");
	}
}

/* Kill the children whose part ends in the chunk, and reap them. */
static void work(long start, long end)
{
	for (int k = 0; k < threads; k++)
		if (start < child[k].end && child[k].end <= end && kill(child[k].pid, SIGKILL))
			err(1, "kill");
	for (int k = 0; k < threads; k++)
		if (start < child[k].end && child[k].end <= end && waitpid(child[k].pid, &child[k].status, 0) < 0)
			err(1, "waitpid");
}

static void check(void)
{
	for (int k = 0; k < threads; k++)
		if (!WIFSIGNALED(child[k].status) || WTERMSIG(child[k].status) != SIGKILL)
			errx(1, "child %d of %d was not ended", k, threads);
}

