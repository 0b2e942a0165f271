{% extends "skeleton.c" %}
{% import "mixed/works.c" as works with context %}
{% block top %}
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
{% if "fork" in (method, beside) %}
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
{% endif %}
{% include "base.c" %}
static char *const other = (char *)(1L << 38);
static long begun, over, done, beside;
{% if method in ("populate", "zap") %}
static unsigned char in[SIZE / {{ base_page }}]; /* for mincore */
{% endif %}

/* What is timed; beside another thread, once that has begun. */
static void timed(int alone)
{
	double end = omp_get_wtime() + 0.3; /* if there is none after all */

	while (!alone && !__atomic_load_n(&begun, __ATOMIC_ACQUIRE) &&
	       omp_get_wtime() < end)
		sched_yield();
	for (long at = 0; at < SIZE; at += STEP, done++) {
{{ works.one(method, "mem + at", "MIN(STEP, SIZE - at)") }}
	}
	__atomic_store_n(&over, 1, __ATOMIC_RELEASE);
}

static void meanwhile(void)
{
	__atomic_store_n(&begun, 1, __ATOMIC_RELEASE);
	for (; !__atomic_load_n(&over, __ATOMIC_ACQUIRE); beside++) {
{% if beside == "zap" %}
{{ works.one("populate", "other", "MIXED") }}
{% elif beside == "populate" %}
{{ works.one("zap", "other", "MIXED") }}
{% endif %}
{{ works.one(beside, "other", "MIXED") }}
	}
}
{% endblock %}
{% block prepare %}
{{ works.begin(method, "mem", "SIZE") }}
{{ works.begin(beside, "other", "MIXED") }}
	begun = over = done = beside = 0;
{% endblock %}
{% block work %}
		for (long k = at; k < {{ end }}; k++)
			k == 0 ? timed(threads == 1) : meanwhile();
{% endblock %}
{% block check %}
	CHECK(over && done == (SIZE + STEP - 1) / STEP);
	CHECK(threads == 1 || beside);
{% if method == "populate" %}
	DO(mincore(mem, SIZE, in));
	CHECK(!memchr(in, 0, sizeof(in))); /* all pages are there */
{% elif method == "zap" %}
	DO(mincore(mem, SIZE, in));
	CHECK(!memchr(in, 1, sizeof(in))); /* no page is there */
{% endif %}
{% endblock %}
