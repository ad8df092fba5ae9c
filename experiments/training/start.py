"""Initial weights of a network, if they are not random."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.config import Config
from experiments.data.class_names import IMAGENET_80, SINGLE, prompts, readable_names
from experiments.data.dataset import Dataset
from experiments.data.feed import whole_split
from experiments.errors import UserError
from experiments.models import (
    Model,
    image_features,
    open_clip,
    open_pretrained,
    pretrained_network,
    text_columns,
    unit,
)
from experiments.training.evaluate import eval_logits
from experiments.training.step import TrainState


def check_head_init(config: Config) -> None:
    """Checks ``head_init``, before anything is read or compiled.

    Raises:
      UserError: if the network or its last layer cannot start from ``head_init``.
    """
    if config.head_init == "random":
        return
    if config.model != "clip" or config.head != "cosine":
        raise UserError(
            f"--head-init {config.head_init} is for --model clip with --head cosine, "
            f"got --model {config.model} with --head {config.head}."
        )
    several = jax.process_count() > 1 and not config.in_memory
    if config.head_init == "class_means" and several:
        raise UserError(
            "--head-init class_means needs all images, but each of several processes "
            "reads only a part: choose --head-init text."
        )


def with_start(
    state: TrainState, config: Config, dataset: Dataset, model: Model
) -> TrainState:
    """Returns the state with the initial weights that the configuration asks for.

    Args:
      state: state on the host, optionally with a leading axis of seeds.
      config: configuration of the run.
      dataset: its class names are used, and for class means its training split.
      model: the network.

    Raises:
      UserError: if there are no such weights, or they are of another network.
    """
    params, batch_stats = {}, {}
    if config.init_weights is not None:
        pretrained = open_pretrained(config.init_weights)
        params, batch_stats = pretrained_network(pretrained, model)
    if config.head_init != "random":
        params = {"head": {"columns": _columns(config, dataset)}}
    if not params:
        return state

    def replaced(network):
        return tuple(map(_with, network, (params, batch_stats)))

    params, batch_stats = replaced((state.params, state.batch_stats))
    average = state.average and replaced(state.average)
    return state._replace(params=params, batch_stats=batch_stats, average=average)


def _with(tree, new):
    """Replaces some parts of the tree, for every seed."""
    if not isinstance(tree, dict):
        return np.broadcast_to(new, tree.shape)
    return {k: _with(part, new[k]) if k in new else part for k, part in tree.items()}


def class_prompts(config: Config, dataset: Dataset) -> list[list[str]]:
    """Returns one or eighty prompts of every class, in the order of the labels."""
    templates = IMAGENET_80 if config.head_init == "text_ensemble" else SINGLE
    path = Path(config.class_names).expanduser() if config.class_names else None
    names = readable_names(config.data, dataset.class_names, path)
    return prompts(names, templates)


def _columns(config, dataset):
    clip = open_clip(config.weights)
    if config.head_init == "class_means":
        return _class_means(config, dataset, clip)
    return text_columns(clip, class_prompts(config, dataset))


def _class_means(config, dataset, clip):
    """Computes the mean image feature of every class: unit columns, ``(width, C)``."""
    weights, sizes = clip.vision(), clip.architecture.vision
    if weights is None:
        raise UserError(
            "means of image features need a trained image tower, but this one has "
            "random weights: choose --head-init random."
        )
    model = image_features(sizes, weights["vision"])

    @jax.jit
    def add(sums, frozen, images, labels, real):
        features = eval_logits(
            config, model, ({}, {}), frozen, images, dataset.mean, dataset.std
        )
        return sums.at[labels].add(jnp.where(real[:, None], features, 0))

    mesh = Mesh(np.array(jax.local_devices()[:1]), ("data",))
    sums = jnp.zeros((len(dataset.class_counts), sizes.transformer.width))
    frozen = jax.device_put(model.frozen)
    for batch in whole_split(config, dataset.train, mesh):
        sums = add(sums, frozen, *batch)
    return np.asarray(unit(sums, axis=1).T)
