"""Adding data sets: readers for what people have, and the writer that makes shards and a manifest of it."""
