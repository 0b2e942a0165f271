#include <sys/mman.h>
/* How many bytes of the range have their pages. */
static long bytes_present(void)
{
	static unsigned char resident[SIZE / BASE_PAGE];
	long pages = 0;

	if (mincore(base, SIZE, resident))
		err(1, "mincore");
	for (long k = 0; k < SIZE / BASE_PAGE; k++)
		pages += resident[k] & 1;
	return pages * BASE_PAGE;
}

