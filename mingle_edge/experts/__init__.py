"""Task vectors and what low-rank experts keep of them."""
