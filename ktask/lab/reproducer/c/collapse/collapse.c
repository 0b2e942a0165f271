{% extends "skeleton.c" %}
{% block top %}
#include <errno.h>
#define MADV_COLLAPSE 25
{% include "base.c" %}
{% include "smaps.c" %}
{% endblock %}
{% block setup %}
{% include "map.c" %}
{% endblock %}
{% block prepare %}
	DO(madvise(mem, SIZE, {{ zap }}));
	DO(madvise(mem, SIZE, MADV_NOHUGEPAGE));
	DO(madvise(mem, SIZE, MADV_POPULATE_WRITE));
	DO(madvise(mem, SIZE, MADV_HUGEPAGE));
	for (char *page = mem; page < mem + SIZE; page += {{ base_page }})
		*(char **)page = page;
	CHECK(smaps("{{ huge_field }}") == 0);
{% endblock %}
{% block work %}
		while (madvise(mem + at, {{ size }}, MADV_COLLAPSE))
			CHECK(errno == EAGAIN); /* in Linux 6.1 and later */
{% endblock %}
{% block check %}
	CHECK(smaps("{{ huge_field }}") == SIZE);
	for (char *page = mem; page < mem + SIZE; page += {{ base_page }})
		CHECK(*(char **)page == page);
{% endblock %}
