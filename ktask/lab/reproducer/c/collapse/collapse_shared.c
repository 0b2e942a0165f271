{% include "collapse/collapse.c" %}
