"""The mesh's sidecar: leases attempts from the scheduler, drives the server beside it, reports what came."""
