"""The report: tables, figures and the page they become."""
