"""Training, comparing and measuring with focal_sam_jax. Not part of the wheel."""
