{% extends "zeroing/fallocate.c" %}
