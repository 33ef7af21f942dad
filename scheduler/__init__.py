"""The scheduler: owns searches, trials, tasks and attempts. Imports no torch, onnx or numpy."""

import os

# Before gRPC is imported: the thread that polls a server's sockets also reads them, instead of waking another for each
# message. A fifth of what a message costs here; thousands of small messages are all that this server does.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")
