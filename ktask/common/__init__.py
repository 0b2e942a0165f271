"""Shared leaves, which import no other folder of ktask.

`units` writes sizes, times and rates as text, `files` writes files whole or not at all, `yaml_files` reads
YAML with errors that name the line, `figures` has the theme and marks of all plots, `views` the tables of
notebooks, `progress` the bars, `resources` the folders that come with the suite.
"""
