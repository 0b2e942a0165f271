{% extends "pageout/pageout_file.c" %}
