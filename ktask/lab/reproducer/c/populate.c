#include <sys/mman.h>
static void populate(long bytes)
{
	if (madvise(base, bytes, MADV_POPULATE_WRITE)) /* Linux 5.14 */
		err(1, "MADV_POPULATE_WRITE");
}

