{% extends "skeleton.c" %}
{% block top %}
{% if method == "mlock" %}
#include <errno.h>
{% endif %}
{% include "base.c" %}
{% include "status.c" %}
{% endblock %}
{% block setup %}
{% include "map.c" %}
	DO(madvise(mem, SIZE, MADV_POPULATE_WRITE));
{% endblock %}
{% block prepare %}
	DO(munlock(mem, SIZE));
{% endblock %}
{% block work %}
		while (mlock(mem + at, {{ size }}))
			CHECK(errno == EAGAIN);
{% endblock %}
{% block check %}
	CHECK(status("VmLck:") == SIZE);
{% endblock %}
