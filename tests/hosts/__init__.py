"""Tier T6: a mesh on hosts that are really separate, and what becomes of a search when their network breaks."""
