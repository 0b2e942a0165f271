#include <string.h>
/* Bytes by a field of smaps, such as "AnonHugePages:", of the mappings in the range. */
static long smaps_bytes(const char *field)
{
	unsigned long start, end, low = (unsigned long)base;
	FILE *file = fopen("/proc/self/smaps", "r");
	long bytes = 0, inside = 0;
	char line[4096];

	if (!file)
		err(1, "/proc/self/smaps");
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = start < low + SIZE && low < end;
		else if (inside && !strncmp(line, field, strlen(field)))
			bytes += 1024 * atol(line + strlen(field));
	}
	fclose(file);
	return bytes;
}

