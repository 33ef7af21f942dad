"""The commands, one module a noun. Nothing heavy is imported before a command runs."""
