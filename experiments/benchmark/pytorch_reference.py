r"""Focal-SAM and its relatives in PyTorch: what the JAX library is checked against.

Written from Algorithm 1 of the paper, in its own form: with the coefficients
:math:`a_c = \lambda s_c` the batch loss is split into

.. math::
  L = L^{1-a} + L^a, \qquad L^a = \frac{1}{B} \sum_j a_{y_j} \ell_j

and the gradient is :math:`\nabla L^{1-a}(\theta) + \nabla L^a(\theta + \epsilon)`,
where :math:`\epsilon` climbs along :math:`\nabla L^a(\theta)`.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# ``(logits, labels) -> (batch,)``
Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of every example."""
    return F.cross_entropy(logits, labels, reduction="none")


def focal_coefficients(class_counts, gamma: float, lam: float) -> Tensor:
    r""":math:`a_c = \lambda (1 - \pi_c)^\gamma`, shape ``(num_classes,)``, float64."""
    counts = torch.as_tensor(np.asarray(class_counts), dtype=torch.float64)
    return lam * (1 - counts / counts.sum()) ** gamma


def tail_coefficients(class_counts, threshold: float) -> Tensor:
    """One for the classes with fewer examples, else zero, ``(num_classes,)``."""
    counts = torch.as_tensor(np.asarray(class_counts), dtype=torch.float64)
    return (counts < threshold).to(torch.float64)


def sgd_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    images: Tensor,
    labels: Tensor,
) -> None:
    """A step along the plain gradient."""
    _use(model, _gradient(model, loss(model(images), labels).mean()))
    optimizer.step()


def sam_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    images: Tensor,
    labels: Tensor,
    *,
    rho: float,
) -> None:
    """A step along the gradient at the perturbed weights: 2 forwards, 2 backwards."""
    uphill = _gradient(model, loss(model(images), labels).mean())
    _use(model, _gradient_after_climb(model, uphill, rho, loss, images, labels, 1.0))
    optimizer.step()


def focal_sam_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    images: Tensor,
    labels: Tensor,
    *,
    rho: float,
    coefficients: Tensor,
) -> None:
    """Algorithm 1 with coefficients :math:`a`: 2 forwards, 3 backwards.

    With :func:`tail_coefficients` it is ImbSAM.
    """
    a = coefficients.to(images.dtype)[labels]
    losses = loss(model(images), labels)
    rest = _gradient(model, ((1 - a) * losses).mean(), retain_graph=True)
    uphill = _gradient(model, (a * losses).mean())
    climbed = _gradient_after_climb(model, uphill, rho, loss, images, labels, a)
    _use(model, [r + c for r, c in zip(rest, climbed, strict=True)])
    optimizer.step()


def _gradient(model, value, retain_graph=False):
    return torch.autograd.grad(
        value, list(model.parameters()), retain_graph=retain_graph
    )


def _gradient_after_climb(model, uphill, rho, loss, images, labels, a):
    """The gradient of the loss weighted by ``a`` at θ + ε; the weights return to θ."""
    parameters = list(model.parameters())
    before = [p.detach().clone() for p in parameters]
    norm = torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(g) for g in uphill])
    )
    with torch.no_grad():
        for parameter, g in zip(parameters, uphill, strict=True):
            parameter.add_(g, alpha=float(rho / (norm + 1e-12)))
    gradient = _gradient(model, (a * loss(model(images), labels)).mean())
    with torch.no_grad():
        for parameter, saved in zip(parameters, before, strict=True):
            parameter.copy_(saved)
    return gradient


def _use(model, gradient):
    for parameter, g in zip(model.parameters(), gradient, strict=True):
        parameter.grad = g
