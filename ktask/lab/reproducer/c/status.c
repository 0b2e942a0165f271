#include <stdlib.h>
#include <string.h>

/* Bytes by a field of /proc/self/status. */
static long status(const char *field)
{
	char text[8192] = "";
	FILE *file = fopen("/proc/self/status", "r");

	CHECK(file && fread(text, 1, sizeof(text) - 1, file));
	fclose(file);
	return 1024 * atol(strstr(text, field) + strlen(field));
}
