"""The train server: PyTorch behind TrainService."""
