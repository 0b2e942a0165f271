{% extends "mixed/populate.c" %}
