"""What is done to pixels, on the host and on the device."""
