"""What runs on a device: Python with `mingle_edge_runtime` alone, or JavaScript with ONNX Runtime alone."""
