{% extends "skeleton.c" %}
{% block top %}
{% include "files.c" %}
{% endblock %}
{% block variables %}
	struct stat stat;
{% endblock %}
{% block setup %}
{% include "memfd.c" %}
{% endblock %}
{% block prepare %}
	for (int k = 0; k < FILES; k++) {
		DO(ftruncate(fds[k], FILE_SIZE));
		DO(fallocate(fds[k], 0, 0, FILE_SIZE));
		DO(fstat(fds[k], &stat));
		CHECK(stat.st_blocks * 512 == FILE_SIZE);
	}
{% endblock %}
{% block work %}
		DO(fallocate(fds[0], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			     at, {{ size }}));
{% endblock %}
{% block check %}
	for (int k = 0; k < FILES; k++) {
		DO(fstat(fds[k], &stat));
		CHECK(stat.st_blocks == 0);
	}
{% endblock %}
