"""The journal: the scheduler's durable event log, snapshots and request table."""
