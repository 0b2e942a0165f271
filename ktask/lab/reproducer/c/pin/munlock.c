{% extends "pin/mlock.c" %}
{% block prepare %}
	DO(mlock(mem, SIZE));
	CHECK(status("VmLck:") == SIZE);
{% endblock %}
{% block work %}
		DO(munlock(mem + at, {{ size }}));
{% endblock %}
{% block check %}
	CHECK(status("VmLck:") == 0);
{% endblock %}
