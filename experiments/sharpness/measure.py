"""Sharpness of the loss of every class and group of a finished run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import focal_sam_jax as fsam
from experiments import devices
from experiments.config import about, at_least, check_bounds
from experiments.data.dataset import Source, Split
from experiments.data.feed import whole_split
from experiments.data.load import load_dataset
from experiments.data.sources.files import Subset
from experiments.metrics import SHOTS
from experiments.models import make_model
from experiments.records.manifest import (
    check_same_data,
    config_of,
    read_manifest,
)
from experiments.sharpness.classes import RADIUS, by_shot, known
from experiments.sharpness.losses import class_shares, network_losses
from experiments.training.checkpoint import last_network
from experiments.training.evaluate import shots

GROUPS = (*SHOTS, "all")


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement, the same for all runs."""

    rho: Annotated[
        float, about("radius (L2 norm) of the ball around the weights"), at_least(0)
    ] = RADIUS
    adaptive_rho: Annotated[
        float,
        about("radius of the adaptive ball, in units of the weights"),
        at_least(0),
    ] = 0.5
    average_rho: Annotated[
        float,
        about("L2 distance of random points from the weights, over all of them"),
        at_least(0),
    ] = 5.0
    images_per_class: Annotated[
        int | None,
        about("measure only the first so many images of every class; none: all"),
        at_least(1),
    ] = None
    gamma: Annotated[float, about("exponent of the focal sharpness"), at_least(0)] = 1.0
    ascent_steps: Annotated[
        int,
        about("steps of projected gradient ascent to the worst point of a ball"),
        at_least(1),
    ] = 5
    restarts: Annotated[
        int,
        about("number of ascents, all but one of them from a random point"),
        at_least(1),
    ] = 1
    samples: Annotated[
        int, about("number of random points for the average sharpness"), at_least(1)
    ] = 20
    trace_samples: Annotated[
        int, about("number of random vectors for a trace"), at_least(1)
    ] = 30
    lanczos_steps: Annotated[
        int,
        about("Hessian-vector products for the largest eigenvalue and the density"),
        at_least(1),
    ] = 40
    grid: Annotated[int, about("points along a side of a landscape"), at_least(2)] = 21
    extent: Annotated[
        float,
        about("distance from the centre of a landscape to its sides, in filter norms"),
        at_least(0),
    ] = 0.5

    def __post_init__(self):
        check_bounds(self)


class Landscape(NamedTuple):
    """A plane through the trained weights, along two filter-normalised directions.

    Attributes:
      steps: positions along either direction, ``(size,)``.
      losses: losses by group, ``(size, size)``: mean over the classes of their mean
        losses; for "all", over the images.
    """

    steps: np.ndarray
    losses: dict[str, np.ndarray]


class Subject(NamedTuple):
    """A trained network and its training set.

    Attributes:
      losses: :math:`L_c`, which sum to the mean loss.
      params: its weights.
      class_counts: training images of each class.
      groups: the name of each class's group.
    """

    losses: fsam.sharpness.ClassLosses
    params: Any
    class_counts: np.ndarray
    groups: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """Share of every class in the training set."""
        return class_shares(self.class_counts)

    def weights(self, group: str) -> np.ndarray | None:
        """Returns class weights for a group's loss, the mean of its classes' losses.

        For "all", they give the mean over the images, which training minimises.
        ``None`` if the group has no class.
        """
        if group == "all":
            return np.ones(len(self.groups), np.float32)
        chosen = (self.groups == group) & (self.class_counts > 0)
        if not chosen.any():
            return None
        shares = np.where(chosen, self.shares, 1.0)
        return np.where(chosen, 1 / shares / chosen.sum(), 0.0).astype(np.float32)


def open_subject(
    run_dir: Path,
    data_dir: Path,
    mesh: Mesh,
    data: str | None = None,
    images_per_class: int | None = None,
) -> Subject:
    """Reads the last checkpoint of a run and its training set.

    Args:
      run_dir: folder of the run.
      data_dir: folder of data sets.
      mesh: mesh of one device.
      data: new location of the run's own data, if moved.
      images_per_class: largest number to measure; ``None``: all.

    Raises:
      UserError: if the run has no checkpoint, or its data are missing.
    """
    manifest = read_manifest(run_dir)
    config = config_of(manifest)
    _, params, batch_stats = last_network(run_dir)
    dataset = load_dataset(config.replace(data=data or config.data), data_dir)
    check_same_data(manifest, dataset)
    counts = dataset.class_counts
    model = make_model(config, len(counts), len(dataset.mean))
    params, batch_stats, frozen = jax.device_put(
        (params, batch_stats, model.frozen), devices.replicated(mesh)
    )
    chosen = _first(dataset.train.labels, images_per_class or len(dataset.train.labels))
    train = _part(dataset.train, chosen) if images_per_class else dataset.train
    losses = network_losses(
        config,
        dataset,
        frozen,
        batch_stats,
        lambda: whole_split(config, train, mesh),
        np.bincount(dataset.train.labels[chosen], minlength=len(counts)),
    )
    return Subject(losses, params, counts, shots(counts, config))


def _first(labels: np.ndarray, number: int) -> np.ndarray:
    """Returns sorted indices of the first ``number`` examples of every class."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])
    return np.sort(order[np.arange(len(labels)) - starts < number])


def _part(split: Split | Source, chosen: np.ndarray) -> Split | Source:
    if isinstance(split, Split):
        return Split(split.images[chosen], split.labels[chosen])
    return Subset(split, chosen)


def measure(
    subject: Subject, settings: Settings, key: jax.Array, show: Callable[[str], None]
) -> dict[str, Any]:
    """Computes all measures of a network, as JSON.

    ``classes`` has lists over the classes, for the mean loss of a class's images: its
    ``loss``; its rise in a ball, to first order (``sharpness``) and by ``ascent``; its
    rise in an ``adaptive`` ball; its ``average`` rise. ``groups`` has the means of
    these over a group's classes, and, with errors, the top ``eigenvalue`` and ``trace``
    of the Hessian of the group's loss. That is the mean of its classes' losses. For
    "all", it is the training loss, and the means are ``None``. A group without classes
    has only ``None``. ``terms`` has the terms of generalisation bounds.
    """
    show("sharpness")
    classes = {
        name: of_class / subject.shares
        for name, of_class in _classes(subject, settings, key).items()
    }
    by_group = {name: by_shot(x, subject.groups) for name, x in classes.items()}
    groups: dict[str, Any] = {}
    for group in GROUPS:
        weights = subject.weights(group)
        show(f"Hessian, {group}")
        groups[group] = {
            **{name: means.get(group) for name, means in by_group.items()},
            **_curvature(subject, weights, settings, key),
        }
    terms = fsam.sharpness.bound_terms(
        subject.losses,
        subject.params,
        subject.class_counts,
        settings.rho,
        settings.gamma,
    )
    return {
        "classes": {name: [known(x) for x in row] for name, row in classes.items()},
        "groups": groups,
        "terms": {
            name: np.asarray(value).tolist() for name, value in terms._asdict().items()
        },
    }


def spectrum(
    subject: Subject, group: str, settings: Settings, key: jax.Array
) -> fsam.sharpness.Spectrum | None:
    """Computes the density of a group's Hessian; ``None`` if it has no class."""
    weights = subject.weights(group)
    if weights is None:
        return None
    return fsam.sharpness.spectral_density(
        subject.losses, subject.params, weights, key=key, steps=settings.lanczos_steps
    )


def landscape(subject: Subject, settings: Settings, key: jax.Array) -> Landscape:
    """Computes the losses of all groups around the network."""
    steps = np.linspace(-settings.extent, settings.extent, settings.grid)
    first, second = (
        fsam.sharpness.filter_normalised(subject.params, k)
        for k in jax.random.split(key)
    )
    steps_32 = jnp.asarray(steps, jnp.float32)
    of_class = fsam.sharpness.slice_2d(
        subject.losses, subject.params, (first, second), (steps_32, steps_32)
    )
    weights = {group: subject.weights(group) for group in GROUPS}
    return Landscape(
        steps,
        {g: np.asarray(of_class) @ w for g, w in weights.items() if w is not None},
    )


def _classes(subject, settings, key):
    losses, params = subject.losses, subject.params
    ascent, average = jax.random.split(key)
    worst = fsam.sharpness.class_sharpness
    rises = {
        "loss": losses.values(params),
        "sharpness": worst(losses, params, settings.rho),
        "ascent": worst(
            losses,
            params,
            settings.rho,
            steps=settings.ascent_steps,
            restarts=settings.restarts,
            key=ascent,
        ),
        "adaptive": worst(losses, params, settings.adaptive_rho, adaptive=True),
        "average": fsam.sharpness.average_sharpness(
            losses, params, settings.average_rho, average, samples=settings.samples
        ).mean,
    }
    return {name: np.asarray(of_class) for name, of_class in rises.items()}


def _curvature(subject, weights, settings, key):
    names = ("eigenvalue", "eigenvalue_error", "trace", "trace_error")
    if weights is None:
        return dict.fromkeys(names)
    around = subject.losses, subject.params, weights
    top = fsam.sharpness.top_eigenpairs(*around, key=key, steps=settings.lanczos_steps)
    trace = fsam.sharpness.trace(*around, key=key, samples=settings.trace_samples)
    numbers = (top.values[0], top.residuals[0], *trace)
    return {name: known(x) for name, x in zip(names, numbers, strict=True)}
