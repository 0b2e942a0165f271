{% extends "skeleton.c" %}
{% block top %}
#include <string.h>
{% include "base.c" %}
static unsigned char in[SIZE / {{ base_page }}]; /* for mincore */
static char maps[1 << 20], line[64];
{% endblock %}
{% block variables %}
	FILE *file;
{% endblock %}
{% block setup %}
{% include "map.c" %}
	DO(madvise(mem, SIZE, MADV_POPULATE_WRITE));
	sprintf(line, "%lx-%lx r--p", (long)mem, (long)mem + SIZE);
{% endblock %}
{% block prepare %}
	DO(mprotect(mem, SIZE, PROT_READ | PROT_WRITE));
{% endblock %}
{% block work %}
		DO(mprotect(mem + at, {{ size }}, PROT_READ));
{% endblock %}
{% block check %}
	CHECK((file = fopen("/proc/self/maps", "r")));
	CHECK(fread(maps, 1, sizeof(maps) - 1, file) && strstr(maps, line));
	fclose(file);
	DO(mincore(mem, SIZE, in));
	CHECK(!memchr(in, 0, sizeof(in))); /* all pages are there */
{% endblock %}
