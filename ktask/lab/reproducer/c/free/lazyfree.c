{% extends "skeleton.c" %}
{% block top %}
{% include "base.c" %}
{% include "smaps.c" %}
{% endblock %}
{% block setup %}
{% include "map.c" %}
{% endblock %}
{% block prepare %}
	DO(madvise(mem, SIZE, MADV_DONTNEED)); /* a page is marked only once */
{% include "free/fill.c" %}
{% endblock %}
{% block work %}
		DO(madvise(mem + at, {{ size }}, MADV_FREE));
{% endblock %}
{% block check %}
#pragma omp parallel num_threads(THREADS) /* unmapping empties a CPU's batch */
	munmap(mmap(0, 1, 1, MAP_PRIVATE | MAP_ANON | MAP_POPULATE, -1, 0), 1);
	CHECK(smaps("LazyFree:") == SIZE);
{% endblock %}
