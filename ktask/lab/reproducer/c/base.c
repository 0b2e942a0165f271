static char *const mem = (char *)(1L << 37); /* nothing else is near */
