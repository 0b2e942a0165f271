/*
{% for line in head %}
 * {{ line }}
{% endfor %}
 *
 *	cc -O2 -fopenmp case.c -o case && OMP_PLACES='{{ places }}' ./case
{% for line in command %}
 *	{{ line }}
{% endfor %}
 */
#define _GNU_SOURCE
{% for name in headers %}
#include <{{ name }}>
{% endfor %}

{% for name, value in constants.items() %}
#define {{ name }} {{ value }}
{% endfor %}
#define DO(call) if ((long)(call) < 0) err(1, "%s", #call)
#define CHECK(what) if (!(what)) errx(1, "not so: %s", #what)

{{ body }}