"""Data sets: what is known of them without reading them (catalog), and the samples themselves (load)."""
