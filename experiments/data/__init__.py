"""Sources of images, subsampling to a long-tailed distribution, and batching."""
