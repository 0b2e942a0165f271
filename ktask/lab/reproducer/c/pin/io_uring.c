{% extends "skeleton.c" %}
{% block top %}
{% include "base.c" %}
{% include "status.c" %}
{% include "rings.c" %}
{% endblock %}
{% block setup %}
{% include "map.c" %}
	DO(madvise(mem, SIZE, MADV_POPULATE_WRITE));
{% include "open_rings.c" %}
{% endblock %}
{% block prepare %}
	empty();
{% endblock %}
{% block work %}
		pin(mem + at, mem + at + {{ size }});
{% endblock %}
{% block check %}
	CHECK(status("VmPin:") == SIZE);
{% endblock %}
