"""The same bundles on every kind of device: `python -m devices` measures what `docs/devices.md` shows.

Development only, no part of the distribution. A file in `kinds/` is a kind of device; what runs there is in `on_device/`.
"""
