{% extends "page_walk/smaps.c" %}
