r"""The methods as Optax gradient transformations.

Each takes the plain gradient :math:`\nabla L(\theta)` as its updates, as every Optax
transformation does, and adds :math:`\lambda` times the correction of
:mod:`focal_sam_jax._gradient` to it. What stands before it in a chain acts on the plain
gradient, what stands after it on the whole.
"""

import chex
import numpy as np
import optax

from focal_sam_jax._checks import ClassValues, check_scalar
from focal_sam_jax._class_conditional import class_conditional_correction
from focal_sam_jax._class_weights import cc_sam_radii, focal_weights, tail_weights
from focal_sam_jax._devices import AxisName
from focal_sam_jax._evaluation import at_theta
from focal_sam_jax._forward import forward_shared
from focal_sam_jax._gradient import (
    ascent_gradient,
    check_class_weights,
    sharpness_correction,
)
from focal_sam_jax._loss_functions import as_array_fn
from focal_sam_jax._perturbation import Mask
from focal_sam_jax._transformation import Rho, transformation


def focal_sam(
    class_counts: ClassValues,
    *,
    rho: Rho = 0.05,
    gamma: chex.Numeric = 1.0,
    lam: chex.Numeric = 0.5,
    adaptive: bool = False,
    mask: Mask = None,
    axis_name: AxisName = None,
    sync_perturbation: bool = True,
    has_aux: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Focal-SAM: flattens the loss of every class, of rare classes more.

    .. math::
      s_c = (1 - \pi_c)^\gamma, \quad \pi_c = n_c / \textstyle\sum_k n_k, \qquad
      g_s = \nabla \sum_c s_c L_c(\theta), \quad
      \epsilon = \rho \, g_s / \lVert g_s \rVert_2

    .. math::
      G = \nabla L(\theta) + \lambda
          \Big[ \nabla \sum_c s_c L_c(\theta + \epsilon) - g_s \Big]

    Chain it in front of an optimizer, and hand the loss function to ``update``:
    ``updates, state = tx.update(grads, state, params, per_class_loss_fn=f)``. A step
    costs two forwards and three backwards, however many classes there are. For that
    the forward pass of the caller must serve here too: either ``grads`` is the gradient
    of ``f(params).sum()``, and under ``jax.jit`` the compiler merges the two passes,
    which it can do in most networks; or loss and gradient come from
    :func:`focal_sam_jax.evaluate`, whose result is handed on as ``evaluation``.

    Args:
      class_counts: training examples of each class, shape ``(num_classes,)``.
      rho: radius of the perturbation: a scalar >= 0, traced or not, or an Optax
        schedule of the update count.
      gamma: focusing exponent, a scalar >= 0. Zero with ``lam=1`` is SAM.
      lam: strength of the correction, a scalar >= 0. Zero is the plain gradient.
      adaptive: scale the ball by the parameters, as ASAM does.
      mask: arrays to perturb: a tree of bools like the parameters or a prefix of it, or
        a function from the parameters to one. The norm runs over these alone; all
        parameters get an update. ``None``: all.
      axis_name: the ``pmap`` or ``shard_map`` axis, or tuple of axes, over which the
        batch is split; the correction is the mean over it. Not needed under ``jit``
        with shardings.
      sync_perturbation: climb by the gradient of the whole batch. ``False`` is
        m-sharpness: every device climbs by the gradient of its share.
      has_aux: whether the loss function returns ``(losses, aux)``; ``aux`` is dropped.

    Returns:
      An Optax transformation. Its ``update`` takes ``per_class_loss_fn``, a function
      from the parameters to the per-class losses :math:`L_c` of the batch, floats of
      shape ``(num_classes,)``, or a sequence of ``num_classes`` functions to scalars;
      optionally ``evaluation``, what :func:`focal_sam_jax.evaluate` returned for it;
      and optionally ``per_example_labels``, ints of shape ``(batch,)``: a promise,
      explained at :func:`focal_sam_jax.sharpness_aware_value_and_grad`, that makes the
      backward pass of the caller serve :math:`g_s` too. Other extra arguments are
      ignored. Updates leave in the dtype they came in. The state is a
      :class:`focal_sam_jax.SharpnessAwareState`.

    Raises:
      ValueError: if the counts are not 1-D, empty, negative, not finite, or all in one
        class; if ``rho``, ``gamma`` or ``lam`` is negative or not finite; in
        ``update``, if ``params`` or ``per_class_loss_fn`` is missing, the losses have
        the wrong shape, a wrapper masked the parameters or accumulates gradients, or
        the evaluation is of other parameters, classes or devices.
      TypeError: in ``update``, if ``per_class_loss_fn`` is not a function or returns a
        pair without ``has_aux``, or ``evaluation`` is something else.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> import focal_sam_jax as fsam
      >>> x, y = jnp.eye(4), jnp.array([0, 0, 0, 1])
      >>> def per_class_loss(params):
      ...     losses = fsam.losses.cross_entropy(x @ params, y)
      ...     return fsam.per_class_losses(losses, y, num_classes=2)
      >>> tx = optax.chain(fsam.focal_sam([3, 1], rho=0.1), optax.sgd(0.5))
      >>> params = jnp.zeros((4, 2))
      >>> state = tx.init(params)
      >>> before = per_class_loss(params).sum()
      >>> grads = jax.grad(lambda p: per_class_loss(p).sum())(params)
      >>> updates, state = tx.update(
      ...     grads, state, params, per_class_loss_fn=per_class_loss)
      >>> params = optax.apply_updates(params, updates)
      >>> bool(per_class_loss(params).sum() < before)
      True
      >>> bool(optax.tree.get(state, "sharpness") > 0)
      True

    References:
      Li et al., `Focal-SAM: Focal Sharpness-Aware Minimization for Long-Tailed
      Classification <https://arxiv.org/abs/2505.01660>`_, ICML 2025
    """
    weights = focal_weights(class_counts, gamma)
    return _sharpness_aware(
        "focal_sam",
        weights,
        rho,
        lam,
        adaptive=adaptive,
        mask=mask,
        axis_name=axis_name,
        sync_perturbation=sync_perturbation,
        has_aux=has_aux,
    )


def sam(
    *,
    rho: Rho = 0.05,
    adaptive: bool = False,
    mask: Mask = None,
    axis_name: AxisName = None,
    sync_perturbation: bool = True,
    has_aux: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""SAM: flattens the loss of the batch, whatever the classes.

    .. math::
      \epsilon = \rho \, \nabla L(\theta) / \lVert \nabla L(\theta) \rVert_2, \qquad
      G = \nabla L(\theta + \epsilon)

    which is Focal-SAM with :math:`s_c = 1` and :math:`\lambda = 1`. A step costs two
    forwards and two backwards. It is used as :func:`focal_sam` is, which documents all
    arguments, and with ``adaptive=True`` is ASAM.

    Args:
      rho: radius of the perturbation: a scalar >= 0, traced or not, or an Optax
        schedule of the update count.
      adaptive: as in :func:`focal_sam`.
      mask: as in :func:`focal_sam`.
      axis_name: as in :func:`focal_sam`.
      sync_perturbation: as in :func:`focal_sam`.
      has_aux: as in :func:`focal_sam`.

    Returns:
      An Optax transformation, as :func:`focal_sam` returns it; its
      ``per_class_loss_fn`` may have any number of classes.

    Raises:
      ValueError: as :func:`focal_sam`.
      TypeError: as :func:`focal_sam`.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> import focal_sam_jax as fsam
      >>> tx = fsam.sam(rho=0.1)
      >>> params = jnp.array([3.0, 4.0])
      >>> f = lambda p: 0.5 * jnp.sum(p**2)[None]
      >>> sharp, _ = tx.update(params, tx.init(params), params, per_class_loss_fn=f)
      >>> bool(jnp.allclose(sharp, params * 1.02))  # the gradient a step of 0.1 uphill
      True

    References:
      Foret et al., `Sharpness-Aware Minimization for Efficiently Improving
      Generalization <https://arxiv.org/abs/2010.01412>`_, ICLR 2021
    """
    return _sharpness_aware(
        "sam",
        1.0,
        rho,
        1.0,
        adaptive=adaptive,
        mask=mask,
        axis_name=axis_name,
        sync_perturbation=sync_perturbation,
        has_aux=has_aux,
    )


def imbsam(
    class_counts: ClassValues,
    *,
    rho: Rho = 0.05,
    tail_threshold: chex.Numeric = 20,
    adaptive: bool = False,
    mask: Mask = None,
    axis_name: AxisName = None,
    sync_perturbation: bool = True,
    has_aux: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""ImbSAM: flattens the loss of the tail classes only.

    .. math::
      s_c = \mathbf{1}[n_c < \text{tail\_threshold}], \qquad \lambda = 1

    in the equations of :func:`focal_sam`, which documents all arguments. With every
    class in the tail it is SAM, with none the plain gradient, as it is for a batch
    without tail examples. The published code also doubles the loss of tail examples;
    that changes the loss, not the method, and is left to the loss.

    Args:
      class_counts: training examples of each class, shape ``(num_classes,)``.
      rho: radius of the perturbation: a scalar >= 0, traced or not, or an Optax
        schedule of the update count.
      tail_threshold: classes with strictly fewer examples are the tail, scalar >= 0.
      adaptive: as in :func:`focal_sam`.
      mask: as in :func:`focal_sam`.
      axis_name: as in :func:`focal_sam`.
      sync_perturbation: as in :func:`focal_sam`.
      has_aux: as in :func:`focal_sam`.

    Returns:
      An Optax transformation, as :func:`focal_sam` returns it.

    Raises:
      ValueError: as :func:`focal_sam`, and if ``tail_threshold`` is negative or not
        finite.
      TypeError: as :func:`focal_sam`.

    Example:
      >>> import jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> tx = fsam.imbsam([100, 5], rho=0.1)
      >>> params = jnp.array([3.0, 4.0])
      >>> f = lambda p: 0.5 * p**2  # class 0 depends on p[0], class 1 on p[1]
      >>> sharp, _ = tx.update(params, tx.init(params), params, per_class_loss_fn=f)
      >>> [round(float(g), 3) for g in sharp]  # the tail class alone was climbed
      [3.0, 4.1]

    References:
      Zhou et al., `ImbSAM: A Closer Look at Sharpness-Aware Minimization in
      Class-Imbalanced Recognition <https://arxiv.org/abs/2308.07815>`_, ICCV 2023
    """
    weights = tail_weights(class_counts, tail_threshold)
    return _sharpness_aware(
        "imbsam",
        weights,
        rho,
        1.0,
        adaptive=adaptive,
        mask=mask,
        axis_name=axis_name,
        sync_perturbation=sync_perturbation,
        has_aux=has_aux,
    )


def cc_sam(
    class_counts: ClassValues,
    *,
    rho: Rho = 0.05,
    alpha: chex.Numeric = 1.0,
    mask: Mask = None,
    axis_name: AxisName = None,
    has_aux: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""CC-SAM: every class climbs in its own ball, larger for rare classes.

    .. math::
      \epsilon_c = \rho_c \, \nabla L_c / \lVert \nabla L_c \rVert_2, \qquad
      G = (1 - \alpha) \nabla L(\theta) + \alpha \sum_c \nabla L_c(\theta + \epsilon_c)

    with the radii of :func:`focal_sam_jax.cc_sam_radii`. The cost grows with the number
    of classes in the batch, see
    :func:`focal_sam_jax.class_conditional_value_and_grad`. The whole model is
    perturbed; the published code perturbs the linear classifier only, for which pass a
    ``mask`` that selects it. It is used as :func:`focal_sam` is, under ``jax.jit``:
    without, the CPU compiles the network anew in every step.

    Args:
      class_counts: training examples of each class, shape ``(num_classes,)``.
      rho: radius of the rarest class: a scalar >= 0, traced or not, or an Optax
        schedule of the update count.
      alpha: share of the perturbed gradients, a scalar in ``[0, 1]``.
      mask: as in :func:`focal_sam`.
      axis_name: as in :func:`focal_sam`; perturbations are always synchronised.
      has_aux: as in :func:`focal_sam`.

    Returns:
      An Optax transformation, as :func:`focal_sam` returns it.

    Raises:
      ValueError: as :func:`focal_sam`, and if ``alpha`` lies outside ``[0, 1]``.
      TypeError: as :func:`focal_sam`.

    Example:
      >>> import jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> tx = fsam.cc_sam([17, 2], rho=0.1)
      >>> params = jnp.array([3.0, 4.0])
      >>> f = lambda p: 0.5 * p**2  # class 0 depends on p[0], class 1 on p[1]
      >>> sharp, _ = tx.update(params, tx.init(params), params, per_class_loss_fn=f)
      >>> [round(float(g), 3) for g in sharp]  # radii 0.05 and 0.1
      [3.05, 4.1]

    References:
      Zhou et al., `Class-Conditional Sharpness-Aware Minimization for Deep Long-Tailed
      Recognition <https://openaccess.thecvf.com/content/CVPR2023/html/
      Zhou_Class-Conditional_Sharpness-Aware_Minimization_for_Deep_Long-Tailed_
      Recognition_CVPR_2023_paper.html>`_, CVPR 2023
    """
    check_scalar("alpha", alpha, low=0, high=1)
    unit_radii = cc_sam_radii(class_counts, rho=1.0)

    def correct(per_class_loss_fn, params, rho, *, labels, evaluation):
        del labels
        num_classes = unit_radii.shape[0]
        loss_fn = as_array_fn(per_class_loss_fn, num_classes, has_aux)
        here, plain = at_theta(evaluation, loss_fn, params, num_classes, axis_name)
        return class_conditional_correction(
            per_class_loss_fn,
            loss_fn,
            here,
            plain,
            rho * unit_radii,
            mask=mask,
            axis_name=axis_name,
        )

    return transformation("cc_sam", correct, rho, alpha, axis_name)


def _sharpness_aware(name, weights, rho, lam, *, axis_name, has_aux, **options):
    """The family with class weights, which may be one scalar for any classes."""
    check_scalar("lam", lam, low=0)
    num_classes = np.shape(weights)[0] if np.ndim(weights) else None
    uniform = check_class_weights(weights)

    def correct(per_class_loss_fn, params, rho, *, labels, evaluation):
        loss_fn = as_array_fn(per_class_loss_fn, num_classes, has_aux)
        if labels is not None and uniform is None:
            here, (_, ascent) = forward_shared(
                loss_fn, params, weights, labels, axis_name
            )
        else:
            here, plain = at_theta(evaluation, loss_fn, params, num_classes, axis_name)
            ascent = ascent_gradient(here, plain, weights, uniform)
        return sharpness_correction(
            loss_fn,
            here,
            ascent,
            weights,
            rho,
            axis_name=axis_name,
            **options,
        )

    return transformation(name, correct, rho, lam, axis_name)
