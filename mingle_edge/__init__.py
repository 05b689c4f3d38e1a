"""Merge independently fine-tuned CLIP vision towers into one gated model. Importing this loads neither torch nor ONNX."""

__version__ = "0.1.0"
