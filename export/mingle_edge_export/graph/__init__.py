"""Build ONNX graphs."""
