{% extends "skeleton.c" %}
{% block top %}
{% include "base.c" %}

/* Map the memory, which fails if there is anything left in its place. */
static void map(void)
{
{% include "map.c" %}
}
{% endblock %}
{% block setup %}
	map();
{% endblock %}
{% block prepare %}
{% include "free/fill.c" %}
{% endblock %}
{% block work %}
		DO(munmap(mem + at, {{ size }}));
{% endblock %}
{% block check %}
	map();
{% endblock %}
