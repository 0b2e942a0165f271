"""The report in other forms than a page."""
