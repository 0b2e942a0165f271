{% extends "skeleton.c" %}
{% block top %}
#include <string.h>
{% include "base.c" %}
static unsigned char in[SIZE / {{ base_page }}]; /* for mincore */
{% if page_kind == "THP" %}{% include "smaps.c" %}{% endif %}
{% endblock %}
{% block setup %}
{% include "map.c" %}
{% endblock %}
{% block prepare %}
	/* By as many threads as will populate: per-CPU lists of free pages. */
#pragma omp parallel for schedule(dynamic) num_threads(threads)
	for (long at = 0; at < SIZE; at += CHUNK)
		DO(madvise(mem + at, MIN(CHUNK, SIZE - at), {{ zap }}));
{% endblock %}
{% block work %}
		DO(madvise(mem + at, {{ size }}, MADV_POPULATE_WRITE));
{% endblock %}
{% block check %}
	DO(mincore(mem, SIZE, in));
	CHECK(!memchr(in, 0, sizeof(in))); /* all pages are there */
{% if page_kind == "THP" %}
	CHECK(smaps("{{ huge_field }}") == SIZE);
{% endif %}
{% include "zeroing/bytes.c" %}
{% endblock %}
