"""Mixing images with one another."""

import jax


def mixup(
    key: jax.Array, images: jax.Array, labels: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Adds to every image some of another one, the same share all over the batch.

    The loss is then ``share`` times that for ``labels`` and the rest times that for
    ``other_labels``.

    Args:
      key: random key.
      images: float array, shape ``(batch, height, width, channels)``.
      labels: int array, shape ``(batch,)``.
      alpha: the share is drawn from Beta(alpha, alpha); greater than 0.

    Returns:
      ``(images, labels, other_labels, share)``: mixed images, the classes of what has
      the share, those of what has the rest, and the share, a scalar in [0, 1].

    References:
      Zhang et al., `mixup: Beyond Empirical Risk Minimization
      <https://arxiv.org/abs/1710.09412>`_, ICLR 2018
    """
    share_key, order_key = jax.random.split(key)
    share = jax.random.beta(share_key, alpha, alpha, dtype=images.dtype)
    order = jax.random.permutation(order_key, images.shape[0])
    mixed = images + (1 - share) * (images[order] - images)
    return mixed, labels, labels[order], share
