{% extends "pin/io_uring.c" %}
{% block prepare %}
	empty();
	for (long at = 0; at < SIZE; at += BUFFER)
		update(taken++, mem + at, MIN(BUFFER, SIZE - at));
	CHECK(status("VmPin:") == SIZE);
{% endblock %}
{% block work %}
		for (long k = at; k < {{ end }}; k++)
			update(k, NULL, 0);
{% endblock %}
{% block check %}
	CHECK(status("VmPin:") == 0);
{% endblock %}
