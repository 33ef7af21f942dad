"""Searches in the forms of other tools."""
