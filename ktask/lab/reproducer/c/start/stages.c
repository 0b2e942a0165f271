{% extends "start/fused.c" %}
{% block stage %}
#include <sched.h>

static long done; /* bytes, over all stages */

/* A chunk of three ranges in a row: to populate, to pin, to fill. */
static void stages(long at, long end)
{
	for (int k = 0; k < 3; k++) {
		long from = MAX(at - k * SIZE, 0);
		long to = MIN(end - k * SIZE, SIZE);

		if (from >= to)
			continue;
		while (__atomic_load_n(&done, __ATOMIC_ACQUIRE) < k * SIZE)
			sched_yield(); /* the stage before is not over */
		if (k == 0)
			DO(madvise(mem + from, to - from, MADV_POPULATE_WRITE));
		if (k == 1)
			pin(mem + from, mem + to);
		if (k == 2)
			memset(mem + from, 0xA5, to - from);
		__atomic_fetch_add(&done, to - from, __ATOMIC_ACQ_REL);
	}
}
{% endblock %}
{% block begin %}
	done = 0;
{% endblock %}
{% block work %}
		stages(at, {{ end }});
{% endblock %}
