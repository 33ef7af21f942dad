"""The scheduler: owns searches, trials, tasks and attempts. Imports no torch, onnx or numpy."""
