{% extends "skeleton.c" %}
{% block top %}
#include <string.h>
{% include "base.c" %}
{% include "status.c" %}
{% if page_kind == "THP" %}{% include "smaps.c" %}{% endif %}
{% if pin == "io_uring" %}
{% include "rings.c" %}
{% else %}
{% include "start/mlock.c" %}
{% endif %}
{% block stage %}{% endblock %}
{% endblock %}
{% block setup %}
{% include "map.c" %}
{% if pin == "io_uring" %}
{% include "open_rings.c" %}
{% endif %}
{% endblock %}
{% block prepare %}
	empty();
	/* By as many threads as will populate: per-CPU lists of free pages. */
#pragma omp parallel for schedule(dynamic) num_threads(threads)
	for (long at = 0; at < SIZE; at += CHUNK)
		DO(madvise(mem + at, MIN(CHUNK, SIZE - at), MADV_DONTNEED));
{% block begin %}{% endblock %}
{% endblock %}
{% block work %}
	{
		DO(madvise(mem + at, {{ size }}, MADV_POPULATE_WRITE));
		pin(mem + at, mem + at + {{ size }});
		memset(mem + at, 0xA5, {{ size }});
	}
{% endblock %}
{% block check %}
	CHECK(status("{{ "VmPin:" if pin == "io_uring" else "VmLck:" }}") == SIZE);
	for (char *page = mem; page < mem + SIZE; page += {{ base_page }})
		CHECK(*(unsigned char *)page == 0xA5);
{% if page_kind == "THP" %}
	CHECK(smaps("{{ huge_field }}") == SIZE);
{% endif %}
{% endblock %}
