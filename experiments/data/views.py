"""What of an image is judged: all of it or its middle, or five parts in turn."""

import jax
import jax.numpy as jnp

from experiments.config import Config
from experiments.data.resize import five_crops, resize


def judged_views(config: Config, images: jax.Array) -> jax.Array:
    """The parts of every image over whose logits the mean is taken.

    Images in memory are resized first. Streamed ones come as squares of
    ``config.judged_size``, so that the four corners are those of the middle square.

    Args:
      config: its sizes matter.
      images: float, ``(batch, height, width, channels)``.

    Returns:
      Array ``(batch, views, size, size, channels)`` with the size that the network
      sees, and one view or five.
    """
    size = config.network_size
    if config.in_memory:
        images = resize(images, max(config.judged_size, config.test_resize or 0))
    if config.five_crops:
        return jnp.moveaxis(five_crops(images, size), 0, 1)
    start = (images.shape[1] - size) // 2
    return images[:, None, start : start + size, start : start + size]
