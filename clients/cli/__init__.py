"""The nasmesh command."""
