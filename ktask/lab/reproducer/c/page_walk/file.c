#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
/* Map a file over and over: page tables of any size that need little memory. */
static void map_file(void)
{
	int fd;

	DO(fd = memfd_create("alias", 0));
	DO(ftruncate(fd, ALIAS + PAGE));
	for (long at = 0; at < SIZE; at += ALIAS) {
		DO(mmap(mem + at, MIN(ALIAS, SIZE - at), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_FIXED_NOREPLACE, fd, PAGE));
		present -= at + ALIAS <= SIZE; /* the hole, punched below */
	}
	DO(madvise(mem, SIZE, MADV_POPULATE_READ));
	mlock(mem, ALIAS); /* or idle memory may be paged out */
	DO(fallocate(fd, 3 /* punch a hole, keep the size */, ALIAS, PAGE));
}
