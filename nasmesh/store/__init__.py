"""The object store: immutable objects named by content."""
