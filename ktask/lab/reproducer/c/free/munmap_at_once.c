{% extends "free/munmap.c" %}
{% block top %}
{{ super() }}

static long zapped;

/* Zap a part; whoever zaps the last part unmaps all. */
static void unmap(long at, long size)
{
	long done = size;

	if (size < SIZE) {
		DO(madvise(mem + at, size, MADV_DONTNEED));
#pragma omp atomic capture
		done = zapped += size;
	}
	if (done == SIZE)
		DO(munmap(mem, SIZE));
}
{% endblock %}
{% block prepare %}
{{ super() }}
	zapped = 0;
{% endblock %}
{% block work %}
		unmap(at, {{ size }});
{% endblock %}
