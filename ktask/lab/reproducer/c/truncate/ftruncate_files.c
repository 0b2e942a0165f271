{% extends "truncate/ftruncate.c" %}
