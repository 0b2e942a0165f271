{% extends "skeleton.c" %}
{% block top %}
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
{% include "base.c" %}
static char text[ROOM];
static long present = SIZE / PAGE, length, before;
static int fd, file;

/* Read the text, from its start to its end. */
static void read_text(void)
{
	long got;

	do {
		DO(got = pread(fd, text + length, ROOM - 1 - length, length));
		length += got;
	} while (got);
	text[length] = 0;
}

/* Resident pages of the process by the text. */
static long pages(void)
{
	long kib = 0;

	for (char *at = text; (at = strstr(at, "\nRss:")); at += 5)
		kib += atol(at + 5);
	return kib * 1024 / PAGE;
}
{% endblock %}
{% block setup %}
	DO(fd = open("/proc/self/{{ method }}", O_RDONLY));
	read_text();
	before = pages();
{% include "page_walk/file.c" %}
{% endblock %}
{% block prepare %}
	length = text[0] = 0;
{% endblock %}
{% block work %}
		read_text();
{% endblock %}
{% block check %}
	CHECK(labs(pages() - before - present) < 512); /* the rest may change */
{% endblock %}
