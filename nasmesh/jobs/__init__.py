"""Runs jobs in warm child processes: a crash, a timeout or a full memory costs one job, never the server."""
