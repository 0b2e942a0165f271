{% extends "skeleton.c" %}
{% block top %}
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
{% include "base.c" %}
static struct { int pid, status; long end; } child[THREADS];
static cpu_set_t cpu[{{ most_threads }}]; /* of the threads */
{% if page_kind == "THP" %}{% include "smaps.c" %}{% endif %}

/* A child on the CPU of a thread fills its part of the memory and stops. */
static void hold(int k, long bytes)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
{% include "map.c" %}
{% if fill == "each" %}
	for (long i = 0, at, end = 0; i < FILLERS; i++) {
		at = end, end = bytes * (i + 1) / FILLERS & -ALIGN;
		DO(sched_setaffinity(0, sizeof(*cpu), &cpu[i]));
		DO(madvise(mem + at, i < FILLERS - 1 ? end - at : bytes - at,
			   MADV_POPULATE_WRITE));
	}
{% elif fill == "other" %}
	DO(sched_setaffinity(0, sizeof(*cpu), &cpu[k == 1 ? 0 : 1]));
	DO(madvise(mem, bytes, MADV_POPULATE_WRITE));
{% endif %}
	DO(sched_setaffinity(0, sizeof(*cpu), &cpu[k]));
{% if fill == "one" %}
	DO(madvise(mem, bytes, MADV_POPULATE_WRITE));
{% endif %}
{% if page_kind == "THP" %}
	CHECK(smaps("AnonHugePages:") == bytes);
{% endif %}
	raise(SIGSTOP);
}
{% endblock %}
{% block setup %}
#pragma omp parallel num_threads({{ most_threads }})
	sched_getaffinity(0, sizeof(*cpu), &cpu[omp_get_thread_num()]);
{% endblock %}
{% block prepare %}
	for (long k = 0, start = 0; k < threads; start = child[k++].end) {
		child[k].end = SIZE / PAGE * (k + 1) / threads * PAGE;
		DO(child[k].pid = fork());
		if (!child[k].pid)
			hold(k, child[k].end - start);
	}
	for (int k = 0; k < threads; k++) {
		DO(waitpid(child[k].pid, &child[k].status, WUNTRACED));
		CHECK(WIFSTOPPED(child[k].status));
	}
{% endblock %}
{% block work %}
		for (int k = 0; k < threads; k++) /* whose part ends in it */
			if (at < child[k].end && child[k].end <= at + len) {
				DO(kill(child[k].pid, SIGKILL));
				DO(waitpid(child[k].pid, &child[k].status, 0));
			}
{% endblock %}
{% block check %}
	for (int k = 0; k < threads; k++)
		CHECK(WIFSIGNALED(child[k].status));
{% endblock %}
