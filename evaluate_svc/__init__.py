"""The evaluate server: onnxruntime behind EvaluateService."""
