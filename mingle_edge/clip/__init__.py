"""The vision tower as functions of its parameters."""
