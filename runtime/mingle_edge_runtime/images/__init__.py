"""Image files and their preprocessing."""
