"""Merging tasks into a folder, and the merged model in it."""
