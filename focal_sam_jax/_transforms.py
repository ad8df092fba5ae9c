r"""The methods as Optax gradient transformations.

Each takes the plain gradient :math:`\nabla L(\theta)` as its updates, as every Optax
transformation does, and adds :math:`\lambda` times the correction of
:mod:`focal_sam_jax._methods` to it. In a chain, transformations before it act on the
plain gradient, and those after it on the sum.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from focal_sam_jax._checks import (
    ClassValues,
    as_class_values,
    check_class_counts,
    check_class_weights,
    check_composition,
    check_groups,
    check_radii,
    check_rho,
    check_scalar,
    is_concrete,
    warn_of_counts,
)
from focal_sam_jax._class_weights import cc_sam_radii, focal_weights, tail_weights
from focal_sam_jax._devices import AxisName, device_mean, varying_like
from focal_sam_jax._evaluation import at_theta
from focal_sam_jax._methods import (
    Correction,
    add_correction,
    after,
    class_conditional_correction,
    class_weighted_correction,
)
from focal_sam_jax._perturbation import Mask, resolve_mask

Rho = chex.Numeric | optax.Schedule
Scheduled = ClassValues | Callable[[jax.Array], ClassValues]


class SharpnessInfo(NamedTuple):
    r"""Measurements of the last step, at no extra cost.

    ``optax.tree.get(opt_state, "sharpness")`` reads it from any optimizer state.

    Attributes:
      ascent_norm: norm of the ascent gradient, :math:`\lVert g_s \rVert_2`; with one
        ball per group of classes, the root of the sum of the groups' squared gradient
        norms. float32, ().
      sharpness: rise of the weighted loss on the batch,
        :math:`\sum_c s_c [L_c(\theta + \epsilon) - L_c(\theta)]`. float32, ().
    """

    ascent_norm: jax.Array
    sharpness: jax.Array


class SharpnessAwareState(NamedTuple):
    """State of the transformations: a counter and two numbers, no copy of parameters.

    Attributes:
      count: number of updates so far, the argument of schedules. int32, ().
      info: measurements of the last update.
    """

    count: jax.Array
    info: SharpnessInfo


# --- the two general transformations --------------------------------------------------


def sharpness_aware(
    class_weights: Scheduled,
    *,
    rho: Rho = 0.05,
    lam: chex.Numeric = 1.0,
    adaptive: bool = False,
    mask: Mask = None,
    axis_name: AxisName = None,
    sync_perturbation: bool = True,
    has_aux: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Builds sharpness-aware minimisation with any class weights.

    .. math::
      g_s = \nabla \sum_c s_c L_c(\theta), \qquad
      \epsilon = \rho \, g_s / \lVert g_s \rVert_2, \qquad
      G = \nabla L(\theta) + \lambda
          \Big[ \nabla \sum_c s_c L_c(\theta + \epsilon) - g_s \Big]

    Chain it in front of an optimizer. :func:`focal_sam`, :func:`sam` and :func:`imbsam`
    are this transformation with particular class weights :math:`s`. WSAM is
    ``sharpness_aware(1.0, lam=gamma / (1 - gamma))``.

    A step costs two forward and three backward passes for any number of classes. With
    one weight for all classes it costs two and two, and with ``per_example`` in
    :func:`evaluate` little more than that.

    Its ``update(updates, state, params, **extra_args)`` takes

    ======================  ==========================================================
    ``updates``             the plain gradient :math:`\nabla L(\theta)`, or the output
                            of earlier transformations; a tree like ``params``
    ``state``               a :class:`SharpnessAwareState`
    ``params``              :math:`\theta`, a tree of float arrays; required
    ``evaluation``          the result of :func:`evaluate` for this batch; no other
                            extra argument is needed then
    ``per_class_loss_fn``   in place of ``evaluation``: a function from the parameters
                            to the per-class losses :math:`L_c` of the batch, floats of
                            shape ``(num_classes,)``, or a sequence of ``num_classes``
                            functions to scalars; with scalar class weights also a
                            function to a scalar. With an evaluation, it is the loss at
                            :math:`\theta + \epsilon` only
    ``per_example_labels``  with ``per_class_loss_fn`` and no evaluation: class ids,
                            ints of shape ``(batch,)``, or soft labels, floats of shape
                            ``(batch, num_classes)``; makes the promise of
                            ``per_example`` in :func:`evaluate`
    anything else           is ignored
    ======================  ==========================================================

    and returns updates in their input dtypes.

    Args:
      class_weights: :math:`s`, finite, a scalar or shape ``(num_classes,)``, traced or
        not; or a schedule, a function from the update count to either.
      rho: radius of the perturbation: a scalar >= 0, traced or not, or an Optax
        schedule of the update count.
      lam: strength of the correction, a scalar >= 0. Zero is the plain gradient.
      adaptive: whether to scale the ball by the parameters, as ASAM does.
      mask: arrays to perturb: a tree of bools like the parameters or a prefix of it, or
        a function from the parameters to one. The norm runs over these only; all
        parameters get an update. ``None``: all.
      axis_name: the ``pmap`` or ``shard_map`` axis, or tuple of axes, over which the
        batch is split; the correction is the mean over it. Not needed under ``jit``
        with shardings.
      sync_perturbation: whether to perturb along the gradient of the whole batch.
        ``False`` is m-sharpness: each device uses the gradient of its own share.
      has_aux: whether ``per_class_loss_fn`` returns ``(losses, aux)``; ``aux`` is
        dropped. Not needed with an evaluation.

    Returns:
      An Optax transformation.

    Raises:
      ValueError: if a number is not finite, of the wrong shape, or negative where this
        is not allowed; in ``update``, if ``params`` or the loss is missing, the losses
        have the wrong shape, the mask selects nothing, a wrapper masks or flattens the
        parameters, accumulates gradients or checks that they are finite, or the
        evaluation has parameters of another structure, other classes or devices.
      TypeError: if an argument that must be a number is not one; in ``update``, if a
        parameter is not a real float, ``per_class_loss_fn`` is not a function or
        returns a pair without ``has_aux``, or ``evaluation`` has another type.

    Example:
      >>> import jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> tx = fsam.sharpness_aware(jnp.array([0.0, 1.0]), rho=0.1)
      >>> params = jnp.array([3.0, 4.0])
      >>> here = fsam.evaluate(lambda p: 0.5 * p**2, params)  # class c depends on p[c]
      >>> sharp, state = tx.update(
      ...     here.grads, tx.init(params), params, evaluation=here)
      >>> [round(float(g), 3) for g in sharp]  # only the second class was perturbed
      [3.0, 4.1]
      >>> bool(state.info.sharpness > 0)
      True

    References:
      Foret et al., `Sharpness-Aware Minimization for Efficiently Improving
      Generalization <https://arxiv.org/abs/2010.01412>`_, ICLR 2021;
      Li et al., `Focal-SAM: Focal Sharpness-Aware Minimization for Long-Tailed
      Classification <https://arxiv.org/abs/2505.01660>`_, ICML 2025;
      Yue et al., `Sharpness-Aware Minimization Revisited: Weighted Sharpness as a
      Regularization Term <https://arxiv.org/abs/2305.15817>`_, KDD 2023
    """
    ball = _Ball(adaptive, sync_perturbation)
    return _sharpness_aware(
        "sharpness_aware", class_weights, rho, lam, ball, mask, axis_name, has_aux
    )


def class_conditional(
    radii: Scheduled,
    *,
    groups: ClassValues | None = None,
    alpha: chex.Numeric = 1.0,
    mask: Mask = None,
    axis_name: AxisName = None,
    has_aux: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Builds sharpness-aware minimisation with one ball per group of classes.

    .. math::
      L_k = \sum_{c \in k} L_c, \qquad
      \epsilon_k = \rho_k \, \nabla L_k / \lVert \nabla L_k \rVert_2, \qquad
      G = (1 - \alpha) \nabla L(\theta)
          + \alpha \sum_k \nabla L_k(\theta + \epsilon_k)

    Use it like :func:`sharpness_aware`, which documents the arguments of ``update``,
    and under ``jax.jit``: otherwise every step compiles the network again.
    :func:`cc_sam` (a ball for every class) and :func:`sse_sam` (one for the head, one
    for the tail) are this transformation with particular radii.

    The cost grows with the number of groups:

    ===============================  =======================  ========================
    groups                           passes, in addition to   memory, in addition to
                                     the plain gradient's     that of SAM
    ===============================  =======================  ========================
    1 or 2; on CPU up to 32          1 forward, 2 backward    one gradient per group
                                     per group
    3 or more; on CPU more than 32   2 forward, 2 backward    one gradient
                                     per perturbed group
    up to 32, with a small ``mask``  1 forward, 1 backward;   perturbed arrays and their
                                     the perturbed layers     activations, per group
                                     once more per group
    ===============================  =======================  ========================

    The last row applies if the mask selects a tenth of the weights at most; there
    ``jax.vmap`` traces the loss function. In the second row a group is skipped at run
    time if its radius is zero, or its loss is exactly zero on all devices, as with a
    batch without its classes.

    Args:
      radii: :math:`\rho_k`, >= 0, shape ``(num_groups,)``, traced or not; or a
        schedule, a function from the update count to such radii.
      groups: group of each class, ints in ``[0, num_groups)``, shape
        ``(num_classes,)``, not traced. ``None``: every class is its own group.
      alpha: weight of the perturbed gradients, a scalar in ``[0, 1]``.
      mask: as in :func:`sharpness_aware`.
      axis_name: as in :func:`sharpness_aware`; perturbations are always synchronised.
      has_aux: as in :func:`sharpness_aware`.

    Returns:
      An Optax transformation. If ``per_class_loss_fn`` is a sequence of functions, one
      per class, the passes of a group call those of its own classes only.

    Raises:
      ValueError: as :func:`sharpness_aware`, and if a radius is negative or not finite,
        a group has no radius, or ``alpha`` lies outside ``[0, 1]``.
      TypeError: as :func:`sharpness_aware`, and if ``groups`` is traced or not ints.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> tx = fsam.class_conditional([0.1, 0.2], groups=[0, 0, 1])
      >>> params = jnp.array([3.0, 4.0, 1.0])
      >>> @jax.jit
      ... def sharp(params):
      ...     here = fsam.evaluate(lambda p: 0.5 * p**2, params)  # class c: p[c]
      ...     return tx.update(here.grads, tx.init(params), params, evaluation=here)[0]
      >>> [round(float(g), 2) for g in sharp(params)]
      [3.06, 4.08, 1.2]

    References:
      Zhou et al., `Class-Conditional Sharpness-Aware Minimization for Deep Long-Tailed
      Recognition <https://openaccess.thecvf.com/content/CVPR2023/html/
      Zhou_Class-Conditional_Sharpness-Aware_Minimization_for_Deep_Long-Tailed_
      Recognition_CVPR_2023_paper.html>`_, CVPR 2023
    """
    return _class_conditional(
        "class_conditional", radii, groups, alpha, mask, axis_name, has_aux
    )


# --- the methods by name --------------------------------------------------------------


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
    r"""Builds Focal-SAM, which flattens the loss of every class, more for rare ones.

    .. math::
      s_c = (1 - \pi_c)^\gamma, \qquad \pi_c = n_c / \textstyle\sum_k n_k

    The equations are those of :func:`sharpness_aware`, which documents the arguments of
    ``update``. A step costs two forward and three backward passes for any number of
    classes.

    Args:
      class_counts: training examples of each class, shape ``(num_classes,)``.
      rho: radius of the perturbation: a scalar >= 0, traced or not, or an Optax
        schedule of the update count.
      gamma: focusing exponent, a scalar >= 0. Zero with ``lam=1`` is SAM.
      lam: strength of the correction, a scalar >= 0. Zero is the plain gradient.
      adaptive: as in :func:`sharpness_aware`; also ``mask``, ``axis_name``,
        ``sync_perturbation`` and ``has_aux``.

    Returns:
      An Optax transformation, as :func:`sharpness_aware` returns it.

    Raises:
      ValueError: as :func:`sharpness_aware`, and if the counts are not 1-D, empty,
        negative, not finite, or all in one class.
      TypeError: as :func:`sharpness_aware`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import focal_sam_jax as fsam
      >>> x, y = jnp.eye(4), jnp.array([0, 0, 0, 1])
      >>> def loss_fn(params):
      ...     return fsam.losses.cross_entropy(x @ params, y)
      >>> tx = optax.chain(fsam.focal_sam([3, 1], rho=0.1), optax.sgd(0.5))
      >>> params = jnp.zeros((4, 2))
      >>> state = tx.init(params)
      >>> here = fsam.evaluate(loss_fn, params, labels=y, num_classes=2)
      >>> updates, state = tx.update(here.grads, state, params, evaluation=here)
      >>> params = optax.apply_updates(params, updates)
      >>> bool(loss_fn(params).mean() < here.loss)
      True
      >>> bool(optax.tree.get(state, "sharpness") > 0)
      True

    References:
      Li et al., `Focal-SAM: Focal Sharpness-Aware Minimization for Long-Tailed
      Classification <https://arxiv.org/abs/2505.01660>`_, ICML 2025
    """
    weights = focal_weights(class_counts, gamma)
    ball = _Ball(adaptive, sync_perturbation)
    return _sharpness_aware(
        "focal_sam", weights, rho, lam, ball, mask, axis_name, has_aux
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
    r"""Builds SAM, which flattens the loss of the batch.

    .. math::
      \epsilon = \rho \, \nabla L(\theta) / \lVert \nabla L(\theta) \rVert_2, \qquad
      G = \nabla L(\theta + \epsilon)

    This is :func:`sharpness_aware`, which documents the arguments of ``update``, with
    :math:`s_c = 1` and :math:`\lambda = 1`. The loss function may return a scalar, or
    the losses of any number of classes. A step costs two forward and two backward
    passes. With ``adaptive=True`` it is ASAM.

    Args:
      rho: radius of the perturbation: a scalar >= 0, traced or not, or an Optax
        schedule of the update count.
      adaptive: as in :func:`sharpness_aware`; also ``mask``, ``axis_name``,
        ``sync_perturbation`` and ``has_aux``.

    Returns:
      An Optax transformation, as :func:`sharpness_aware` returns it.

    Raises:
      ValueError: as :func:`sharpness_aware`.
      TypeError: as :func:`sharpness_aware`.

    Example:
      >>> import jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> tx = fsam.sam(rho=0.1)
      >>> params = jnp.array([3.0, 4.0])
      >>> here = fsam.evaluate(lambda p: 0.5 * jnp.sum(p**2), params)
      >>> sharp, _ = tx.update(here.grads, tx.init(params), params, evaluation=here)
      >>> bool(jnp.allclose(sharp, params * 1.02))  # the gradient a step of 0.1 uphill
      True

    References:
      Foret et al., `Sharpness-Aware Minimization for Efficiently Improving
      Generalization <https://arxiv.org/abs/2010.01412>`_, ICLR 2021
    """
    ball = _Ball(adaptive, sync_perturbation)
    return _sharpness_aware("sam", 1.0, rho, 1.0, ball, mask, axis_name, has_aux)


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
    r"""Builds ImbSAM, which flattens the loss of the tail classes only.

    .. math::
      s_c = \mathbf{1}[n_c < \mathrm{tail\_threshold}], \qquad \lambda = 1

    The equations are those of :func:`sharpness_aware`, which documents the arguments of
    ``update``. With every class in the tail it is SAM. With none, or for a batch
    without tail examples, it is the plain gradient. The published code also doubles the
    loss of tail examples; that belongs in the loss function.

    Args:
      class_counts: training examples of each class, shape ``(num_classes,)``.
      rho: radius of the perturbation: a scalar >= 0, traced or not, or an Optax
        schedule of the update count.
      tail_threshold: classes with strictly fewer examples are the tail, a scalar >= 0.
      adaptive: as in :func:`sharpness_aware`; also ``mask``, ``axis_name``,
        ``sync_perturbation`` and ``has_aux``.

    Returns:
      An Optax transformation, as :func:`sharpness_aware` returns it.

    Raises:
      ValueError: as :func:`focal_sam`, and if ``tail_threshold`` is negative or not
        finite.
      TypeError: as :func:`sharpness_aware`.

    Example:
      >>> import jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> tx = fsam.imbsam([100, 5], rho=0.1)
      >>> params = jnp.array([3.0, 4.0])
      >>> here = fsam.evaluate(lambda p: 0.5 * p**2, params)  # class c depends on p[c]
      >>> sharp, _ = tx.update(here.grads, tx.init(params), params, evaluation=here)
      >>> [round(float(g), 3) for g in sharp]  # only the tail class was perturbed
      [3.0, 4.1]

    References:
      Zhou et al., `ImbSAM: A Closer Look at Sharpness-Aware Minimization in
      Class-Imbalanced Recognition <https://arxiv.org/abs/2308.07815>`_, ICCV 2023
    """
    check_scalar("tail_threshold", tail_threshold)
    weights = tail_weights(class_counts, tail_threshold)
    ball = _Ball(adaptive, sync_perturbation)
    return _sharpness_aware("imbsam", weights, rho, 1.0, ball, mask, axis_name, has_aux)


def cc_sam(
    class_counts: ClassValues,
    *,
    rho: Rho = 0.05,
    alpha: chex.Numeric = 1.0,
    mask: Mask = None,
    axis_name: AxisName = None,
    has_aux: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Builds CC-SAM, with a perturbation for every class, larger for rare classes.

    .. math::
      \epsilon_c = \rho_c \, \nabla L_c / \lVert \nabla L_c \rVert_2, \qquad
      G = (1 - \alpha) \nabla L(\theta) + \alpha \sum_c \nabla L_c(\theta + \epsilon_c)

    This is :func:`class_conditional`, which describes the cost, with the radii of
    :func:`cc_sam_radii`. The cost grows with the number of classes. The whole model is
    perturbed. The published code perturbs the linear classifier only, which is cheaper:
    with parameters ``{"backbone": ..., "head": ...}`` pass
    ``mask={"backbone": False, "head": True}``.

    Args:
      class_counts: training examples of each class, shape ``(num_classes,)``.
      rho: radius of the rarest class: a scalar >= 0, traced or not, or an Optax
        schedule of the update count.
      alpha: weight of the perturbed gradients, a scalar in ``[0, 1]``.
      mask: as in :func:`class_conditional`; also ``axis_name`` and ``has_aux``.

    Returns:
      An Optax transformation, as :func:`class_conditional` returns it.

    Raises:
      ValueError: as :func:`focal_sam` and :func:`class_conditional`.
      TypeError: as :func:`class_conditional`.

    Example:
      >>> import jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> tx = fsam.cc_sam([17, 2], rho=0.1)
      >>> params = jnp.array([3.0, 4.0])
      >>> here = fsam.evaluate(lambda p: 0.5 * p**2, params)  # class c depends on p[c]
      >>> sharp, _ = tx.update(here.grads, tx.init(params), params, evaluation=here)
      >>> [round(float(g), 3) for g in sharp]  # radii 0.05 and 0.1
      [3.05, 4.1]

    References:
      Zhou et al., Class-Conditional Sharpness-Aware Minimization for Deep Long-Tailed
      Recognition, CVPR 2023
    """
    check_rho(rho)
    unit = cc_sam_radii(class_counts, rho=1.0)
    radii = (lambda count: radius(rho, count) * unit) if callable(rho) else rho * unit
    return _class_conditional("cc_sam", radii, None, alpha, mask, axis_name, has_aux)


def sse_sam(
    class_counts: ClassValues,
    *,
    head_rho: Rho,
    tail_rho: Rho,
    tail_threshold: chex.Numeric,
    switch_step: chex.Numeric,
    mask: Mask = None,
    axis_name: AxisName = None,
    has_aux: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Builds SSE-SAM, which perturbs for head and tail, and later for the tail only.

    .. math::
      \epsilon_g = \rho_g \, \nabla L_g / \lVert \nabla L_g \rVert_2, \qquad
      G = \nabla L_{\text{head}}(\theta + \epsilon_{\text{head}})
          + \nabla L_{\text{tail}}(\theta + \epsilon_{\text{tail}})

    This is :func:`class_conditional` with two groups. Both losses are sums over the
    group divided by the size of the whole batch; a group that is absent from the batch
    adds nothing. From ``switch_step`` on, :math:`\rho_{\text{head}} = 0`, as in
    :func:`imbsam`. In addition to the plain gradient's passes, a step makes two forward
    and four backward passes, also after the switch.

    Args:
      class_counts: training examples of each class, shape ``(num_classes,)``, not
        traced.
      head_rho: radius of the head: a scalar >= 0, traced or not, or an Optax schedule
        of the update count.
      tail_rho: radius of the tail, as ``head_rho``.
      tail_threshold: classes with strictly fewer examples are the tail, a scalar >= 0,
        not traced.
      switch_step: number of updates with a perturbation for the head, a scalar >= 0.
      mask: as in :func:`class_conditional`; also ``axis_name`` and ``has_aux``.

    Returns:
      An Optax transformation, as :func:`class_conditional` returns it.

    Raises:
      ValueError: as :func:`focal_sam` and :func:`class_conditional`.
      TypeError: as :func:`class_conditional`, and if the counts or the threshold are
        traced.

    Example:
      >>> import jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> tx = fsam.sse_sam([100, 5], head_rho=0.05, tail_rho=0.1, tail_threshold=20,
      ...                   switch_step=1)
      >>> params = jnp.array([3.0, 4.0])
      >>> state = tx.init(params)
      >>> here = fsam.evaluate(lambda p: 0.5 * p**2, params)  # class c depends on p[c]
      >>> for _ in range(2):
      ...     sharp, state = tx.update(here.grads, state, params, evaluation=here)
      ...     print([round(float(g), 3) for g in sharp])
      [3.05, 4.1]
      [3.0, 4.1]

    References:
      Lyu et al., `SSE-SAM: Balancing Head and Tail Classes Gradually through
      Stage-Wise SAM <https://arxiv.org/abs/2412.13715>`_, AAAI 2025
    """
    check_class_counts(class_counts)
    check_scalar("tail_threshold", tail_threshold)
    check_scalar("switch_step", switch_step)
    for name, rho in (("head_rho", head_rho), ("tail_rho", tail_rho)):
        check_rho(rho, name)
    if not is_concrete((class_counts, tail_threshold)):
        raise TypeError(
            "sse_sam needs class_counts and tail_threshold when it is built, got "
            "traced ones: they decide which classes are perturbed together. Under "
            "optax.inject_hyperparams list them in static_args; inside jit pass lists "
            "or NumPy arrays, because jax.numpy arrays are traced there."
        )
    is_tail = np.asarray(class_counts) < np.asarray(tail_threshold)

    def radii(count):
        head = radius(head_rho, count, "head_rho")
        head = jnp.where(jnp.less(count, switch_step), head, 0)
        return jnp.stack([head, radius(tail_rho, count, "tail_rho")])

    return _class_conditional(
        "sse_sam", radii, is_tail.astype(np.int32), 1.0, mask, axis_name, has_aux
    )


# --- what they share ------------------------------------------------------------------


class _Ball(NamedTuple):
    """The options of the ball; :func:`sharpness_aware` describes them."""

    adaptive: bool
    sync_perturbation: bool


def _sharpness_aware(name, class_weights, rho, lam, ball, mask, axis_name, has_aux):
    check_rho(rho)
    check_scalar("lam", lam)
    class_weights = as_class_values(class_weights)
    if not callable(class_weights):
        check_class_weights(class_weights)
        warn_of_counts(class_weights)

    def correct(open_pass, selected, updates, count):
        weights, num_classes = weights_and_classes(at(class_weights, count))
        here, loss = open_pass(num_classes)
        return class_weighted_correction(
            loss,
            here,
            weights,
            radius(rho, count),
            plain=in_form_of(here.params, updates),
            selected=in_form_of(here.params, selected),
            axis_name=axis_name,
            **ball._asdict(),
        )

    return _transformation(name, correct, lam, mask, axis_name, has_aux)


def _class_conditional(name, radii, groups, alpha, mask, axis_name, has_aux):
    check_scalar("alpha", alpha, high=1)
    if groups is not None:
        check_groups(groups)
    radii = as_class_values(radii)
    if not callable(radii):
        _groups(radii, groups)

    def correct(open_pass, selected, updates, count):
        radii_now = as_class_values(at(radii, count))
        of_class = _groups(radii_now, groups)
        here, loss = open_pass(of_class.size)
        return class_conditional_correction(
            loss,
            here,
            # Lets XLA free the activations at θ before it computes those at θ + ε.
            after(updates, jnp.asarray(radii_now, float)),
            of_class,
            selected=in_form_of(here.params, selected),
            axis_name=axis_name,
        )

    return _transformation(name, correct, alpha, mask, axis_name, has_aux)


def _transformation(
    name: str,
    correct: Callable[..., Correction],
    strength: chex.Numeric,
    mask: Mask,
    axis_name: AxisName,
    has_aux: bool,
) -> optax.GradientTransformationExtraArgs:
    """Builds the transformation that adds ``strength`` times a correction.

    ``correct(open_pass, selected, updates, count)`` returns the correction.
    ``open_pass`` is :func:`~focal_sam_jax._evaluation.at_theta` as a function of the
    number of classes. ``selected`` is the mask as bools like the parameters.
    """

    def init(params):
        info = varying_like(as_info(0.0, 0.0), params, axis_name)
        return SharpnessAwareState(jnp.zeros((), jnp.int32), info)

    def update(
        updates,
        state,
        params: Any = None,
        *,
        per_class_loss_fn=None,
        per_example_labels=None,
        evaluation=None,
        **extra_args,
    ):
        del extra_args
        has_loss = per_class_loss_fn is not None or evaluation is not None
        check_composition(name, updates, params, mask, has_loss=has_loss)
        open_pass = partial(
            at_theta,
            evaluation,
            per_class_loss_fn,
            params,
            has_aux=has_aux,
            labels=per_example_labels,
            axis_name=axis_name,
        )
        selected = resolve_mask(mask, params)
        correction = correct(open_pass, selected, updates, state.count)
        correction = device_mean(correction, axis_name)
        info = as_info(correction.ascent_norm, correction.sharpness)
        updates = add_correction(updates, correction.gradient, strength)
        count = jnp.asarray(optax.safe_increment(state.count))
        return updates, SharpnessAwareState(count, info)

    return optax.GradientTransformationExtraArgs(init, update)


def weights_and_classes(class_weights: ClassValues) -> tuple[Any, int | None]:
    """Returns the weights, a scalar if known to be equal, and the number of classes.

    The number is ``None`` if a scalar was passed, which fits any number.
    """
    class_weights = as_class_values(class_weights)
    check_class_weights(class_weights)
    num_classes = np.shape(class_weights)[0] if np.ndim(class_weights) else None
    if is_concrete(class_weights):
        values = np.asarray(class_weights, np.float64)
        if np.ptp(values) == 0:
            return float(values.flat[0]), num_classes
    return jnp.asarray(class_weights, float), num_classes


def _groups(radii: ClassValues, groups: ClassValues | None) -> np.ndarray:
    """Checks the radii and returns the group of every class."""
    check_radii("radii", radii)
    if groups is None:
        return np.arange(np.size(radii))
    of_class = np.asarray(groups)
    if of_class.max() >= np.size(radii):
        raise ValueError(
            "groups must be numbered from 0 and have one radius each, got group "
            f"{of_class.max()} for {np.size(radii)} radii."
        )
    return of_class


def at(value: Any, count: jax.Array) -> Any:
    """Returns ``value``, or its value after ``count`` updates if it is a schedule."""
    return value(count) if callable(value) else value


def radius(rho: Rho, count: jax.Array, name: str = "rho") -> jax.Array:
    """Returns ``rho`` after ``count`` updates, checked, as a float."""
    now = at(rho, count)
    check_scalar(name, now)
    return jnp.asarray(now, float)


def in_form_of(like: chex.ArrayTree, tree: chex.ArrayTree) -> chex.ArrayTree:
    """Returns the leaves of ``tree`` in the containers of ``like``."""
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(tree))


def as_info(ascent_norm: chex.Numeric, sharpness: chex.Numeric) -> SharpnessInfo:
    """Returns both numbers in the dtype of the state."""
    return SharpnessInfo(
        jnp.asarray(ascent_norm, jnp.float32), jnp.asarray(sharpness, jnp.float32)
    )
