{% include "page_walk/space.c" %}
static void setup(void)
{
	fill_space();
}

/* Count resident pages in pieces of 64 KiB, eight at a time: the low bits of the bytes of a word. */
static void work(long start, long end)
{
	uint64_t ones = 0x0101010101010101, resident[8192];
	long pages = 0, piece;

	for (long at = start; at < end; at += piece) {
		piece = end - at < 65536 * BASE_PAGE ? end - at : 65536 * BASE_PAGE;
		resident[(piece / BASE_PAGE - 1) / 8] = 0;
		if (mincore(base + at, piece, (unsigned char *)resident))
			err(1, "mincore");
		for (long k = 0; k < (piece / BASE_PAGE + 7) / 8; k++)
			pages += (resident[k] & ones) * ones >> 56;
	}
#pragma omp atomic
	found += pages;
}

