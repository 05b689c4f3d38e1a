"""What all rooms share: errors, progress, the device."""
