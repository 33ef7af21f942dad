"""Programs that people use: the command line."""
