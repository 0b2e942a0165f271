#include <errno.h>
#include <sys/mman.h>

static void pin(char *at, char *end)
{
	while (mlock(at, end - at))
		CHECK(errno == EAGAIN);
}

static void empty(void)
{
	DO(munlock(mem, SIZE));
}
