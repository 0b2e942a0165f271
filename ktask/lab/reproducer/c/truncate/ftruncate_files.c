{% include "truncate/ftruncate.c" %}
