r"""Measuring what the methods claim: how sharp the loss of each class is.

All is of a weighted sum :math:`\sum_c s_c L_c(\theta)` over a data set of any size,
which :func:`class_losses` describes: one class, a group of them, or all.

=========================  =====================================================
:func:`sharpness`          the most it rises within a ball
:func:`class_sharpness`    that, of every class
:func:`focal_sharpness`    that, as Focal-SAM weighs it
:func:`average_sharpness`  the rise of every class at a random point around
:func:`top_eigenpairs`     largest eigenvalues of the Hessian, and their vectors
:func:`trace`              of the Hessian, by Hutchinson's estimator
:func:`spectral_density`   distribution of the Hessian's eigenvalues
:func:`filter_normalised`  a direction to look along
:func:`slice_1d`           the losses along a line
:func:`slice_2d`           the losses over a plane
:func:`bound_terms`        what generalisation bounds are made of
=========================  =====================================================

All are pure functions. Outside of ``jit`` their loops run on the host, and only
gradients, products and evaluations are compiled: best on CPU, and the one way where
batches come from disk. Inside of ``jit`` steps, draws and classes are loops on the
device; batches are not, the program holds each of them.

Parameters in bfloat16 or float16 are rounded again after every small step, and what is
measured is too small: convert them to float32 before.
"""

from focal_sam_jax.sharpness._class_losses import ClassLosses as ClassLosses
from focal_sam_jax.sharpness._class_losses import Estimate as Estimate
from focal_sam_jax.sharpness._class_losses import class_losses as class_losses
from focal_sam_jax.sharpness._landscape import filter_normalised as filter_normalised
from focal_sam_jax.sharpness._landscape import slice_1d as slice_1d
from focal_sam_jax.sharpness._landscape import slice_2d as slice_2d
from focal_sam_jax.sharpness._rises import BoundTerms as BoundTerms
from focal_sam_jax.sharpness._rises import average_sharpness as average_sharpness
from focal_sam_jax.sharpness._rises import bound_terms as bound_terms
from focal_sam_jax.sharpness._rises import class_sharpness as class_sharpness
from focal_sam_jax.sharpness._rises import focal_sharpness as focal_sharpness
from focal_sam_jax.sharpness._rises import sharpness as sharpness
from focal_sam_jax.sharpness._spectrum import Eigenpairs as Eigenpairs
from focal_sam_jax.sharpness._spectrum import Spectrum as Spectrum
from focal_sam_jax.sharpness._spectrum import spectral_density as spectral_density
from focal_sam_jax.sharpness._spectrum import top_eigenpairs as top_eigenpairs
from focal_sam_jax.sharpness._spectrum import trace as trace

__all__ = [
    "BoundTerms",
    "ClassLosses",
    "Eigenpairs",
    "Estimate",
    "Spectrum",
    "average_sharpness",
    "bound_terms",
    "class_losses",
    "class_sharpness",
    "filter_normalised",
    "focal_sharpness",
    "sharpness",
    "slice_1d",
    "slice_2d",
    "spectral_density",
    "top_eigenpairs",
    "trace",
]
