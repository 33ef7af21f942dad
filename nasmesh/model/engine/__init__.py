"""ONNX networks as trainable PyTorch modules and back. The only part of the library that imports torch."""
