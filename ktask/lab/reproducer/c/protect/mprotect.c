{% extends "skeleton.c" %}
{% block top %}
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
{% include "base.c" %}
static unsigned char in[SIZE / {{ base_page }}]; /* for mincore */
static int zeros;
{% endblock %}
{% block setup %}
{% include "map.c" %}
	DO(madvise(mem, SIZE, MADV_POPULATE_WRITE));
	DO(zeros = open("/dev/zero", O_RDONLY));
{% endblock %}
{% block prepare %}
	DO(mprotect(mem, SIZE, PROT_READ | PROT_WRITE));
{% endblock %}
{% block work %}
		DO(mprotect(mem + at, {{ size }}, PROT_READ));
{% endblock %}
{% block check %}
	for (long at = 0; at < SIZE; at += 1L << 16)
		CHECK(read(zeros, mem + at, 1) < 0); /* read-only */
	DO(mincore(mem, SIZE, in));
	CHECK(!memchr(in, 0, sizeof(in))); /* all pages are there */
{% endblock %}
