"""Image processing, on the host and on the device."""
