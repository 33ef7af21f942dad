"""Benchmark tables: every network of a space trained beforehand, so that a search can be held against what is known."""
