{% extends "skeleton.c" %}
{% block top %}
#include <stdint.h>
{% include "base.c" %}
static long present = SIZE / PAGE, found; /* pages */
{% if pages == "file" %}
static int file;
{% endif %}
{% block walk %}{% endblock %}
{% endblock %}
{% block setup %}
{% include "page_walk/fill.c" %}
{% block open %}{% endblock %}
{% endblock %}
{% block prepare %}
	found = 0;
{% endblock %}
{% block work %}
		walk(mem + at, {{ size }});
{% endblock %}
{% block check %}
	CHECK(found == present);
{% endblock %}
