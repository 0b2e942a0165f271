{% extends "skeleton.c" %}
{% block top %}
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
{% include "base.c" %}
static char text[ROOM];
static long present = SIZE / PAGE, length{{ ", before" if method == "smaps_rollup" }};
static int fd;

{% include "page_walk/file.c" %}

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

/* KiB that are resident{{ " from mem on" if method == "smaps" }}, by the text. */
static long rss(void)
{
{% if method == "smaps" %}
	long sum = 0, kib;
	char *start = 0;

	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		sscanf(line, "%p-", (void **)&start);
		if (mem <= start && start < mem + SIZE &&
		    sscanf(line, "Rss: %ld", &kib) == 1)
			sum += kib;
	}
	return sum;
{% else %}
	char *at = strstr(text, "Rss:");

	return at ? atol(at + 4) : 0;
{% endif %}
}
{% endblock %}
{% block setup %}
	DO(fd = open("/proc/self/{{ method }}", O_RDONLY));
{% if method == "smaps_rollup" %}
	read_text();
	before = rss();
{% endif %}
	map_file();
{% endblock %}
{% block prepare %}
	length = text[0] = 0;
{% endblock %}
{% block work %}
		read_text();
{% endblock %}
{% block check %}
{% if method == "smaps" %}
	CHECK(rss() == present * PAGE / 1024);
{% else %}
	/* The rest of the process may gain and lose some pages meanwhile. */
	CHECK(labs(rss() - before - present * PAGE / 1024) < 2048);
{% endif %}
{% endblock %}
