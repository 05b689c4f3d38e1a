"""ONNX Runtime: sessions, devices, what this machine computes with."""
