{% extends "skeleton.c" %}
{% block top %}
#include <sys/syscall.h>
#include <unistd.h>
{% include "base.c" %}
static void *pages[SIZE / PAGE];
static int nodes[SIZE / PAGE], status[SIZE / PAGE];

/* Move pages, which status then has the node of, or minus an errno. */
static void move(long first, long count)
{
	DO(syscall(SYS_move_pages, 0, count, pages + first, nodes + first,
		   status + first, 2 /* MPOL_MF_MOVE */));
}

static int on(int node)
{
	for (long k = 0; k < SIZE / PAGE; k++)
		if (status[k] != node)
			return 0;
	return 1;
}
{% endblock %}
{% block setup %}
{% include "map.c" %}
	DO(madvise(mem, SIZE, MADV_POPULATE_WRITE));
	for (long k = 0; k < SIZE / PAGE; k++)
		pages[k] = mem + k * PAGE;
{% endblock %}
{% block prepare %}
	for (long k = 0; k < SIZE / PAGE; k++)
		nodes[k] = SOURCE, status[k] = -1;
	move(0, SIZE / PAGE);
	CHECK(on(SOURCE));
	for (long k = 0; k < SIZE / PAGE; k++)
		nodes[k] = TARGET, status[k] = -1, *(long *)pages[k] = k;
{% endblock %}
{% block work %}
		move(at / PAGE, {{ size }} / PAGE);
{% endblock %}
{% block check %}
	CHECK(on(TARGET));
	for (long k = 0; k < SIZE / PAGE; k++)
		CHECK(*(long *)pages[k] == k);
{% endblock %}
