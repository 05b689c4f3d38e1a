"""Write a bundle: its scopes, its files, its index."""
