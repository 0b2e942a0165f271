#include <string.h>
#include <sys/mman.h>
{% include "region.c" %}
{% include "populate.c" %}
{% include "present.c" %}
static void setup(void)
{
	map(SIZE);
	populate(SIZE);
}

static void prepare(void)
{
	if (mprotect(base, SIZE, PROT_READ | PROT_WRITE))
		err(1, "mprotect");
}

static void work(long start, long end)
{
	if (mprotect(base + start, end - start, PROT_READ))
		err(1, "mprotect");
}

/* All mappings of the range are read-only, and its pages are still there. */
static void check(void)
{
	unsigned long start, end, low = (unsigned long)base;
	FILE *file = fopen("/proc/self/maps", "r");
	char line[4096], rights[5];

	if (!file)
		err(1, "/proc/self/maps");
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "%lx-%lx %4s", &start, &end, rights) == 3 && start < low + SIZE && low < end)
			if (strcmp(rights, "r--p"))
				errx(1, "a part of the range is %s", rights);
	fclose(file);
	if (bytes_present() != SIZE)
		errx(1, "pages are missing");
}

