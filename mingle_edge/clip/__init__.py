"""The vision tower of CLIP as functions of its parameters."""
