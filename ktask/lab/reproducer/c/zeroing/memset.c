{% extends "skeleton.c" %}
{% block top %}
#include <string.h>
{% include "base.c" %}
{% endblock %}
{% block setup %}
{% include "map.c" %}
	DO(madvise(mem, SIZE, MADV_POPULATE_WRITE));
{% endblock %}
{% block work %}
		memset(mem + at, 0, {{ size }});
{% endblock %}
{% block check %}
{% include "zeroing/bytes.c" %}
{% endblock %}
