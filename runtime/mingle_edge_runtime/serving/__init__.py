"""`EdgeModel`: predictions, calls in the background, streams."""
