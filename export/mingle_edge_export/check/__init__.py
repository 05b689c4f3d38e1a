"""Compare a bundle with the merged model in PyTorch, which is imported here alone."""
