"""What a person sees of a running search: folded from the watch stream, drawn live or printed line by line."""
