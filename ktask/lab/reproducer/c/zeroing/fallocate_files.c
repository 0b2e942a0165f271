{% include "zeroing/fallocate.c" %}
