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

{% if fill != "one" %}
static void move_to(int place)
{
	cpu_set_t one;
	int cpu;

	omp_get_place_proc_ids(place, &cpu);
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		_exit(1);
}

{% endif %}
static void populate(long start, long end)
{
	if (madvise(base + start, end - start, MADV_POPULATE_WRITE)) /* Linux 5.14 */
		_exit(1);
}

/* In the child: hold a part, stop as a sign of that, and wait to be killed. */
static void hold(long bytes)
{
{% if fill != "one" %}
	int own = omp_get_place_num();
{% if fill == "each" %}
	long part = bytes / FILLERS & -ALIGN;
{% endif %}

{% endif %}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	map(bytes);
{% if fill == "one" %}
	populate(0, bytes);
{% elif fill == "each" %}
	for (long k = 0; k < FILLERS; k++) {
		move_to(k);
		populate(part * k, k + 1 < FILLERS ? part * (k + 1) : bytes);
	}
	move_to(own);
{% else %}
	move_to(own == 1 ? 0 : 1);
	populate(0, bytes);
	move_to(own);
{% endif %}
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
		long k = omp_get_thread_num(), pages = SIZE / PAGE;
		long start = pages * k / threads * PAGE;
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
	for (struct child *one = child; one < child + threads; one++)
		if (start < one->end && one->end <= end && kill(one->pid, SIGKILL))
			err(1, "kill");
	for (struct child *one = child; one < child + threads; one++)
		if (start < one->end && one->end <= end && waitpid(one->pid, &one->status, 0) < 0)
			err(1, "waitpid");
}

static void check(void)
{
	for (int k = 0; k < threads; k++)
		if (!WIFSIGNALED(child[k].status) || WTERMSIG(child[k].status) != SIGKILL)
			errx(1, "child %d of %d was not ended", k, threads);
}

