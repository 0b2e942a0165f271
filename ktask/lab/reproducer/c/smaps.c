#include <stdlib.h>
#include <string.h>

/* Bytes by a field of smaps, such as "LazyFree:", of the mapping at mem. */
static long smaps(const char *field)
{
	static char text[1 << 20];
	FILE *file = fopen("/proc/self/smaps", "r");

	CHECK(file && fread(text, 1, sizeof(text) - 1, file));
	fclose(file);
	field = strstr(strstr(text, "2000000000-"), field) + strlen(field);
	return 1024 * atol(field);
}
