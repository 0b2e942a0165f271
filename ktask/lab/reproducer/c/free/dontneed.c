{% extends "skeleton.c" %}
{% block top %}
#include <string.h>
{% include "base.c" %}
static unsigned char in[SIZE / {{ base_page }}]; /* for mincore */
{% endblock %}
{% block setup %}
{% include "map.c" %}
{% endblock %}
{% block prepare %}
{% include "free/fill.c" %}
{% endblock %}
{% block work %}
		DO(madvise(mem + at, {{ size }}, MADV_DONTNEED));
{% endblock %}
{% block check %}
	DO(mincore(mem, SIZE, in));
	CHECK(!memchr(in, 1, sizeof(in))); /* no page is there */
{% endblock %}
