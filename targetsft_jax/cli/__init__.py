"""Manners of the command line: parsers, completion, reports for bug reports.

Only commands import it.
"""
