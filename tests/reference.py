"""The oracle: the papers' equations in NumPy float64, class by class.

The network has two layers and a gradient derived by hand. The batch is long-tailed.
This module does not use JAX. A test that differentiates the forward pass gives it
``xp=jax.numpy``.
"""

from typing import NamedTuple

import numpy as np

CLASSES = 4
COUNTS = np.array([60, 25, 10, 5])
X = np.random.default_rng(1).normal(size=(10, 3))
Y = np.array([0, 0, 1, 0, 2, 3, 1, 0, 2, 0], np.int32)


class Step(NamedTuple):
    """Result of a method on a batch: gradient G, ascent norm, and rise of the loss."""

    gradient: dict
    ascent_norm: float
    sharpness: float


def parameters(seed=0, hidden=5):
    """Weights of the network, float64."""
    rng = np.random.default_rng(seed)
    shapes = {
        "body": {"kernel": (X.shape[1], hidden), "bias": (hidden,)},
        "head": {"kernel": (hidden, CLASSES), "bias": (CLASSES,)},
    }
    return {
        layer: {name: 0.7 * rng.normal(size=shape) for name, shape in arrays.items()}
        for layer, arrays in shapes.items()
    }


def example_losses(params, x, y, xp=np):
    """Cross-entropy of every example, (batch,), in the dtype of the parameters."""
    body, head = params["body"], params["head"]
    x = xp.asarray(x, body["kernel"].dtype)
    features = xp.tanh(x @ body["kernel"] + body["bias"][None, :])
    logits = features @ head["kernel"] + head["bias"][None, :]
    scores = xp.take_along_axis(logits, xp.asarray(y)[:, None], axis=1)[:, 0]
    return xp.log(xp.sum(xp.exp(logits), axis=1)) - scores


def class_loss(params, c, x=X, y=Y):
    """L_c: the sum of the losses of class c, divided by the batch size."""
    return sum(example_losses(params, x, y)[y == c]) / len(y)


def class_gradient(params, c, x=X, y=Y):
    """Computes the gradient of L_c by the chain rule, example by example."""
    body, head = params["body"], params["head"]
    total = tree_map(np.zeros_like, params)
    for x_j in x[y == c]:
        features = np.tanh(x_j @ body["kernel"] + body["bias"])
        logits = features @ head["kernel"] + head["bias"]
        by_logits = np.exp(logits) / np.sum(np.exp(logits))
        by_logits[c] -= 1
        by_features = (head["kernel"] @ by_logits) * (1 - features**2)
        one = {
            "body": {"kernel": np.outer(x_j, by_features), "bias": by_features},
            "head": {"kernel": np.outer(features, by_logits), "bias": by_logits},
        }
        total = add(total, one, 1 / len(y))
    return total


# --- trees: dicts of dicts of arrays --------------------------------------------------


def tree_map(function, tree, *others):
    if isinstance(tree, dict):
        return {
            key: tree_map(function, tree[key], *(other[key] for other in others))
            for key in tree
        }
    return function(tree, *others)


def add(tree, other, factor=1.0):
    """tree + factor * other."""
    return tree_map(lambda a, b: a + factor * b, tree, other)


def flat(tree):
    """All numbers of a tree as one float64 vector."""
    if isinstance(tree, dict):
        return np.concatenate([flat(tree[key]) for key in sorted(tree)])
    return np.asarray(tree).astype(np.float64).ravel()


def norm(tree):
    """Computes the Euclidean norm of a tree."""
    return np.linalg.norm(flat(tree))


def error(got, want):
    """Computes the distance of two trees, relative to the norm of the second."""
    return np.linalg.norm(flat(got) - flat(want)) / np.linalg.norm(flat(want))


# --- the methods ----------------------------------------------------------------------


def weighted(params, weights, x=X, y=Y):
    """The loss and the gradient of the sum of w_c L_c."""
    loss, gradient = 0.0, tree_map(np.zeros_like, params)
    for c, weight in enumerate(weights):
        loss += weight * class_loss(params, c, x, y)
        gradient = add(gradient, class_gradient(params, c, x, y), weight)
    return loss, gradient


def ascent(params, gradient, rho, adaptive=False, mask=None):
    """Computes epsilon and its divisor (Foret et al. eq. 2, Kwon et al. eq. 11)."""
    if mask is None:
        mask = tree_map(lambda p: True, params)
    gradient = tree_map(lambda keep, g: g * keep, mask, gradient)
    scale = tree_map(lambda p: np.abs(p) if adaptive else np.ones_like(p), params)
    scaled = tree_map(lambda t, g: t * g, scale, gradient)
    norm = np.linalg.norm(flat(scaled))
    if norm == 0:
        return tree_map(np.zeros_like, params), norm
    return tree_map(lambda t, g: rho * t * g / norm, scale, scaled), norm


def sam(params, *, rho, adaptive=False, mask=None, x=X, y=Y):
    """Computes the gradient at the perturbed parameters."""
    ones = np.ones(CLASSES)
    before, plain = weighted(params, ones, x, y)
    epsilon, norm = ascent(params, plain, rho, adaptive, mask)
    after, gradient = weighted(add(params, epsilon), ones, x, y)
    return Step(gradient, norm, after - before)


def imbsam(params, counts, *, rho, tail_threshold, x=X, y=Y, **options):
    """Plain gradient of the head classes, SAM gradient of the tail classes."""
    tail = np.array([1.0 if n < tail_threshold else 0.0 for n in counts])
    before, tail_gradient = weighted(params, tail, x, y)
    epsilon, norm = ascent(params, tail_gradient, rho, **options)
    after, tail_gradient = weighted(add(params, epsilon), tail, x, y)
    _, head_gradient = weighted(params, 1 - tail, x, y)
    return Step(add(head_gradient, tail_gradient), norm, after - before)


def focal_sam(params, counts, *, rho, gamma, lam, x=X, y=Y, **options):
    """Weighs L_c by 1 - a_c at theta and by a_c at theta + epsilon (Li et al.)."""
    focal = np.array([(1 - n / sum(counts)) ** gamma for n in counts])
    before, focal_gradient = weighted(params, focal, x, y)
    epsilon, norm = ascent(params, focal_gradient, rho, **options)
    there = add(params, epsilon)
    _, at_home = weighted(params, 1 - lam * focal, x, y)
    _, climbed = weighted(there, lam * focal, x, y)
    after, _ = weighted(there, focal, x, y)
    return Step(add(at_home, climbed), norm, after - before)


def radii(counts, rho):
    """Returns CC-SAM's radii, ~ (n_c - 1)^(-1/4), with rho for the rarest class."""
    roots = [max(n - 1, 1) ** -0.25 for n in counts]
    return [rho * root / max(roots) for root in roots]


def cc_sam(params, counts, *, rho, alpha, mask=None, x=X, y=Y):
    """Perturbs for each class separately; alpha weighs the perturbed gradient."""
    each = np.eye(len(counts))
    return in_balls(params, each, radii(counts, rho), alpha, mask, x, y)


def sse_sam(params, counts, *, head_rho, tail_rho, tail_threshold, mask=None, x=X, y=Y):
    """Perturbs for head and tail separately and adds both gradients (Lyu et al.)."""
    tail = np.array([1.0 if n < tail_threshold else 0.0 for n in counts])
    return in_balls(params, [1 - tail, tail], [head_rho, tail_rho], 1.0, mask, x, y)


def in_balls(params, groups, radii, alpha, mask, x, y):
    """Perturbs for each group of classes, a row of zeros and ones, in its own ball."""
    _, plain = weighted(params, np.ones(CLASSES), x, y)
    gradient = tree_map(lambda g: (1 - alpha) * g, plain)
    squares, rise = 0.0, 0.0
    for group, radius in zip(groups, radii, strict=True):
        before, uphill = weighted(params, group, x, y)
        epsilon, norm = ascent(params, uphill, radius, mask=mask)
        after, climbed = weighted(add(params, epsilon), group, x, y)
        gradient = add(gradient, climbed, alpha)
        squares += norm**2
        rise += after - before
    return Step(gradient, np.sqrt(squares), rise)
