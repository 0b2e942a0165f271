{% extends "skeleton.c" %}
{% block top %}
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
{% if method.startswith("cold") %}
{% include "smaps.c" %}
{% endif %}
{% include "base.c" %}
static unsigned char in[SIZE / {{ base_page }}]; /* for mincore */
{% endblock %}
{% block setup %}
{% if method.endswith("_file") %}
	FILE *file = tmpfile(); /* sparse: nothing is read from a disk */

	CHECK(file && !ftruncate(fileno(file), SIZE));
	DO(mmap(mem, SIZE, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_FIXED_NOREPLACE, fileno(file), 0));
{% else %}
{% include "map.c" %}
{% endif %}
{% endblock %}
{% block variables %}
	long sum = 0;
{% endblock %}
{% block prepare %}
{% if method.endswith("_file") %}
	DO(madvise(mem, SIZE, MADV_POPULATE_READ));
{% else %}
	DO(madvise(mem, SIZE, MADV_DONTNEED));
	DO(madvise(mem, SIZE, MADV_POPULATE_WRITE));
{% endif %}
	for (char *page = mem; page < mem + SIZE; page += {{ base_page }})
		sum += *(volatile char *)page; /* is used */
#pragma omp parallel num_threads(THREADS)
	{ /* hand the batch of each CPU to the lists of pages */
		void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANON, -1, 0);
		madvise(page, 4096, MADV_POPULATE_WRITE);
		munmap(page, 4096);
	}
	DO(mincore(mem, SIZE, in));
	CHECK(!sum && !memchr(in, 0, sizeof(in))); /* all pages are there */
{% endblock %}
{% block work %}
		DO(madvise(mem + at, {{ size }},
			   {{ "MADV_COLD" if method.startswith("cold") else "MADV_PAGEOUT" }}));
{% endblock %}
{% block check %}
{% if method.startswith("cold") %}
	CHECK(smaps("Referenced:") == 0);
{% else %}
	DO(mincore(mem, SIZE, in));
	CHECK(!memchr(in, 1, sizeof(in))); /* no page is there */
{% endif %}
{% endblock %}
