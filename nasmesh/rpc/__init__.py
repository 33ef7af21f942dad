"""gRPC made uniform: servers, channels, deadlines, and the one mapping between domain errors and wire errors."""
