"""Networks: architecture to ONNX and back, admission, identity, counting. Imports no torch (the engine folder does).

Import the modules, not this package: most need onnx, which costs start-up time.
"""
