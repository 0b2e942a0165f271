{% extends "truncate/punch_hole.c" %}
{% block work %}
		for (long k = at; k < {{ end }}; k++)
			DO(ftruncate(fds[k], 0));
{% endblock %}
