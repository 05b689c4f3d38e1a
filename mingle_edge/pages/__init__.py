"""What the HTML pages of `profile` and `compare` share. Importing it loads neither torch nor ONNX."""
