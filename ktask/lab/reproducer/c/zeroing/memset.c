#include <string.h>
{% include "region.c" %}
{% include "populate.c" %}
{% include "words.c" %}
static void setup(void)
{
	map(SIZE);
	populate(SIZE);
}

static void prepare(void)
{
	leave_words();
}

static void work(long start, long end)
{
	memset(base + start, 0, end - start);
}

static void check(void)
{
	check_words();
}

