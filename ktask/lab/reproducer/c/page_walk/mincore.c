{% extends "page_walk/count.c" %}
{% block walk %}

/* Count pages in pieces of 64 KiB, the low bits of eight bytes at a time. */
static void walk(char *at, long size)
{
	uint64_t ones = 0x0101010101010101, in[8192];
	long piece, pages = 0;

	for (char *end = at + size; at < end; at += piece) {
		piece = MIN(end - at, 65536 * PAGE);
		in[(piece / PAGE - 1) / 8] = 0;
		DO(mincore(at, piece, (unsigned char *)in));
		for (long k = 0; k < (piece / PAGE + 7) / 8; k++)
			pages += (in[k] & ones) * ones >> 56;
	}
#pragma omp atomic
	found += pages;
}
{% endblock %}
