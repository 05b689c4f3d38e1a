"""The towers of a bundle as ONNX graphs: dense, with experts as inputs, with a page bank, and the router."""
