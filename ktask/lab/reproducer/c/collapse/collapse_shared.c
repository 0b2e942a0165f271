{% extends "collapse/collapse.c" %}
