{# A file mapped over and over: page tables of any size that need little memory. #}
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
	DO(file = memfd_create("alias", 0));
	DO(ftruncate(file, ALIAS + PAGE));
	for (long at = 0; at < SIZE; at += ALIAS) {
		DO(mmap(mem + at, MIN(ALIAS, SIZE - at), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_FIXED_NOREPLACE, file, PAGE));
		present--; /* the first page, punched below */
	}
	DO(madvise(mem, SIZE, MADV_POPULATE_READ));
	mlock(mem, ALIAS); /* or idle memory may be paged out */
	DO(fallocate(file, 3 /* punch a hole, keep the size */, PAGE, PAGE));
