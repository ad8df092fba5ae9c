r"""Focal-SAM and related methods in PyTorch, to check the JAX library against.

Written from Algorithm 1 of the paper, in the paper's form: with the coefficients
:math:`a_c = \lambda s_c` the batch loss is split into

.. math::
  L = L^{1-a} + L^a, \qquad L^a = \frac{1}{B} \sum_j a_{y_j} \ell_j

and the gradient is :math:`\nabla L^{1-a}(\theta) + \nabla L^a(\theta + \epsilon)`,
where :math:`\epsilon` is a perturbation along :math:`\nabla L^a(\theta)`.
"""

from collections.abc import Callable, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# ``(logits, labels) -> (batch,)``
Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the cross-entropy of every example."""
    return F.cross_entropy(logits, labels, reduction="none")


def focal_coefficients(class_counts, gamma: float, lam: float) -> Tensor:
    r"""Returns :math:`a_c = \lambda(1 - \pi_c)^\gamma`, ``(num_classes,)``, float64."""
    counts = torch.as_tensor(np.asarray(class_counts), dtype=torch.float64)
    return lam * (1 - counts / counts.sum()) ** gamma


def tail_coefficients(class_counts, threshold: float) -> Tensor:
    """Returns 1 for classes below ``threshold``, else 0, ``(num_classes,)``."""
    counts = torch.as_tensor(np.asarray(class_counts), dtype=torch.float64)
    return (counts < threshold).to(torch.float64)


def sgd_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    images: Tensor,
    labels: Tensor,
) -> None:
    """Makes a step along the plain gradient."""
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
    """Makes a step along the gradient at perturbed weights: 2 forwards, 2 backwards."""
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
    """Makes a step of Algorithm 1 with coefficients a: 2 forwards, 3 backwards.

    With :func:`tail_coefficients` it is ImbSAM.
    """
    a = coefficients.to(images.dtype)[labels]
    losses = loss(model(images), labels)
    rest = _gradient(model, ((1 - a) * losses).mean(), retain_graph=True)
    uphill = _gradient(model, (a * losses).mean())
    climbed = _gradient_after_climb(model, uphill, rho, loss, images, labels, a)
    _use(model, [r + c for r, c in zip(rest, climbed, strict=True)])
    optimizer.step()


def cc_sam_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    images: Tensor,
    labels: Tensor,
    *,
    radii: Tensor,
    perturbed: Sequence[str] = ("",),
) -> None:
    """Makes a step of CC-SAM with alpha 1: per class, one forward, two backwards.

    The classes are those in the batch; they share one more forward pass, at θ.
    ``radii`` has the radius of each class, ``(num_classes,)``. Parameters are perturbed
    if their names begin with one of ``perturbed``.
    """
    climbing = [
        p
        for name, p in model.named_parameters()
        if p.requires_grad and name.startswith(tuple(perturbed))
    ]
    losses = loss(model(images), labels)
    of_class = {
        c: (labels == c).to(losses.dtype) for c in torch.unique(labels).tolist()
    }
    # Before any perturbation, because changed weights invalidate the graph.
    uphill = {
        c: torch.autograd.grad((a * losses).mean(), climbing, retain_graph=True)
        for c, a in of_class.items()
    }
    total = [torch.zeros_like(p) for p in _trained(model)]
    for c, a in of_class.items():
        with _climbed(climbing, uphill[c], radii[c]):
            gradient = _gradient(model, (a * loss(model(images), labels)).mean())
        torch._foreach_add_(total, gradient)
    _use(model, total)
    optimizer.step()


def sse_sam_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    images: Tensor,
    labels: Tensor,
    *,
    is_tail: Tensor,
    head_rho: float,
    tail_rho: float,
) -> None:
    """Makes a step of SSE-SAM: adds gradients at a head and a tail perturbation.

    ``is_tail`` says which classes are tail, ``(num_classes,)``. ``head_rho`` zero gives
    the second stage.
    """
    tail = is_tail[labels].to(images.dtype)
    total = [torch.zeros_like(p) for p in _trained(model)]
    for a, rho in ((1 - tail, head_rho), (tail, tail_rho)):
        if not a.any():
            continue
        uphill = _gradient(model, (a * loss(model(images), labels)).mean())
        there = _gradient_after_climb(model, uphill, rho, loss, images, labels, a)
        torch._foreach_add_(total, there)
    _use(model, total)
    optimizer.step()


def _trained(model):
    return [p for p in model.parameters() if p.requires_grad]


def _gradient(model, value, retain_graph=False):
    return torch.autograd.grad(value, _trained(model), retain_graph=retain_graph)


def _gradient_after_climb(model, uphill, rho, loss, images, labels, a):
    """Returns the gradient of the ``a``-weighted loss at θ + ε; restores θ."""
    with _climbed(_trained(model), uphill, rho):
        return _gradient(model, (a * loss(model(images), labels)).mean())


@contextmanager
def _climbed(parameters, uphill, rho):
    """Moves the parameters by ``rho`` along ``uphill``; restores them at the end."""
    before = [p.detach().clone() for p in parameters]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(uphill)))
    with torch.no_grad():
        torch._foreach_add_(
            parameters, torch._foreach_mul(uphill, rho / (norm + 1e-12))
        )
    yield
    with torch.no_grad():
        torch._foreach_copy_(parameters, before)


def _use(model, gradient):
    for parameter, g in zip(_trained(model), gradient, strict=True):
        parameter.grad = g
