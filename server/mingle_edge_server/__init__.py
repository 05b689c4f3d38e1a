"""Serve a bundle over HTTP by the Open Inference Protocol v2."""

from __future__ import annotations
