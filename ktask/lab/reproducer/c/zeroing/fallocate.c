{% extends "skeleton.c" %}
{% block top %}
{% include "files.c" %}
{% endblock %}
{% block variables %}
	struct stat stat;
	char *file;
{% endblock %}
{% block setup %}
{% include "memfd.c" %}
{% endblock %}
{% block prepare %}
	for (int k = 0; k < FILES; k++) {
		DO(ftruncate(fds[k], 0));
		DO(ftruncate(fds[k], FILE_SIZE));
	}
{% endblock %}
{% block work %}
{% if method == "fallocate" %}
		DO(fallocate(fds[0], 0, at, {{ size }}));
{% else %}
		for (long k = at; k < {{ end }}; k++)
			DO(fallocate(fds[k], 0, 0, FILE_SIZE));
{% endif %}
{% endblock %}
{% block check %}
	for (int k = 0; k < FILES; k++) {
		DO(fstat(fds[k], &stat));
		CHECK(stat.st_blocks * 512 == FILE_SIZE);
		DO(file = mmap(NULL, FILE_SIZE, PROT_READ | PROT_WRITE,
			       MAP_SHARED, fds[k], 0));
		for (char *page = file; page < file + FILE_SIZE; page += {{ base_page }}) {
			CHECK(!*page); /* zeroed since a byte was left here */
			*page = 1;
		}
		DO(munmap(file, FILE_SIZE));
	}
{% endblock %}
