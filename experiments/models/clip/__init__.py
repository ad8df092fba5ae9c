"""CLIP: towers for images and texts, their weights on disk, and tuners."""
