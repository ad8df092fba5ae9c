r"""Measures of how sharp the loss of each class is.

All functions measure a weighted sum :math:`\sum_c s_c L_c(\theta)`: one class, a group
of them, or all. :func:`class_losses` describes the losses, over a data set of any size.

=========================  =====================================================
:func:`sharpness`          largest rise of the sum within a ball
:func:`class_sharpness`    largest rise of every class
:func:`focal_sharpness`    largest rise with Focal-SAM's weights
:func:`average_sharpness`  mean rise of every class at random points nearby
:func:`top_eigenpairs`     largest eigenvalues of the Hessian, and their vectors
:func:`trace`              trace of the Hessian, by Hutchinson's estimator
:func:`spectral_density`   distribution of the Hessian's eigenvalues
:func:`filter_normalised`  random direction for the slices
:func:`slice_1d`           losses along a line
:func:`slice_2d`           losses over a plane
:func:`bound_terms`        terms of Focal-SAM's generalisation bound
=========================  =====================================================

All are pure functions. Outside of ``jit`` their loops run on the host, and only
gradients, products and evaluations are compiled. This is best on CPU, and required if
batches come from disk. Inside of ``jit``, loops over steps, draws and classes run on
the device; the loop over batches is unrolled.

Parameters in bfloat16 or float16 are rounded after every small step, and the results
are too small: convert them to float32 first.
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
