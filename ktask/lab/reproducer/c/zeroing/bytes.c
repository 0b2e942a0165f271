	for (char *page = mem; page < mem + SIZE; page += {{ base_page }}) {
		CHECK(!*page); /* zeroed since a byte was left here */
		*page = 1;
	}
