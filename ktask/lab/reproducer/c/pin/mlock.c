#include <errno.h>
#include <unistd.h>
{% include "region.c" %}
{% include "populate.c" %}
{% include "status.c" %}
static void setup(void)
{
	map(SIZE);
	populate(SIZE);
}

static void prepare(void)
{
	if (munlock(base, SIZE))
		err(1, "munlock");
}

static void work(long start, long end)
{
	for (int k = 0; mlock(base + start, end - start); k++)
		if (errno != EAGAIN || k == 100)
			err(1, "mlock");
}

static void check(void)
{
	if (status_bytes(getpid(), "VmLck:") != SIZE)
		errx(1, "not all of it is locked");
}

