"""Tests that every recipe runs, and matches its docstring and name."""

import importlib
import itertools
import re
import shlex

import jax
import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets", reason="needs focal_sam_jax[data]")
pytest.importorskip("orbax.checkpoint", reason="needs focal_sam_jax[experiments]")

from idx_files import write as write_idx
from tfds_files import (
    write_cifar,
    write_i_naturalist2018,
    write_imagenet_lt,
    write_places,
)
from tiny_runs import make

from experiments.config import LOSSES, METHODS
from experiments.configs import RECIPES, get_config
from experiments.data.load import load_dataset
from experiments.train import parse
from experiments.training.evaluate import scores
from experiments.training.step import epoch_means


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """All data sets, with a few images each."""
    folder = tmp_path_factory.mktemp("data")
    write_cifar(folder, "cifar10")
    write_cifar(folder, "cifar100")
    write_imagenet_lt(folder)
    write_i_naturalist2018(folder)
    write_places(folder)
    write_idx(folder / "fashion_mnist", [12] * 10)
    return folder


def shrunk(name, method, loss):
    """The recipe with a tiny network, small batches and small images."""
    config = get_config(name, method, loss).replace(batch_size=8)
    if config.model not in ("clip", "vit_digits"):
        config = config.replace(model="resnet_digits", width=1)
    if not config.in_memory:
        return config.replace(image_size=72, test_resize=None)
    return config.replace(imbalance_factor=4.0)


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """Returns a function that gives a CLIP recipe a tiny model, and class names if it
    needs them."""
    pytest.importorskip("tokenizers", reason="needs focal_sam_jax[clip]")
    from clip_files import write_clip

    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder, image_size=72)

    def changed(config, dataset):
        names = None
        if not config.in_memory:
            names = folder / f"{config.data}.txt"
            lines = [f"{name}\tthing {i}" for i, name in enumerate(dataset.class_names)]
            names.write_text("\n".join(reversed(lines)))
            names = str(names)
        size = 72 if config.in_memory else None
        return config.replace(weights=str(folder), class_names=names, input_size=size)

    return changed


# Losses, methods and data do not depend on each other: one test of every loss and every
# method is enough.
BASE = [name for name in RECIPES if "_if" not in name]  # those differ in imbalance
_KINDS = [(method, "ldam") for method in METHODS if method != "focal_sam"]
_KINDS += [("focal_sam", loss) for loss in LOSSES]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method", "loss"),
    [(n, *kind) for n, kind in zip(BASE, itertools.cycle(_KINDS), strict=False)],
)
def test_every_recipe_runs_two_steps(name, method, loss, data_dir, request):
    config = shrunk(name, method, loss)
    dataset = load_dataset(config, data_dir)
    if config.model == "clip":
        config = request.getfixturevalue("tiny_clip")(config, dataset)
    run_steps(config, dataset, steps=2, looks=2)


@pytest.mark.parametrize("name", BASE)
def test_the_command_in_a_recipe_is_the_recipe(name):
    text = importlib.import_module(f"experiments.configs.{name}").__doc__
    (command,) = re.findall(r"python -m experiments.train (.*)", text)
    config = parse(shlex.split(command)).config
    of_user = {key: getattr(config, key) for key in ("weights", "class_names")}
    assert config == get_config(name, "focal_sam").replace(**of_user)
    assert ("--weights FOLDER" in command) == (config.model == "clip")
    assert config.config == name
    for word in ("Cost:", "Expected:"):
        assert word in text


@pytest.mark.parametrize("name", RECIPES)
def test_without_a_recipe_the_data_choose_it(name):
    base = RECIPES[name].base
    flags = ["--model", "clip"] if base.model == "clip" else []
    config = parse(["--data", base.data, *flags]).config
    for found in (config, RECIPES[config.config].base):
        assert found.data == base.data
        assert (found.model == "clip") == (base.model == "clip")


@pytest.mark.parametrize("name", RECIPES)
def test_every_method_and_loss_has_a_configuration(name):
    for method in METHODS:
        for loss in LOSSES:
            config = get_config(name, method, loss)
            assert (config.method, config.loss) == (method, loss)
            if loss == "ldam":
                assert config.head == "cosine"
                assert config.drw_start == round(0.8 * config.epochs)


# The published commands and defaults: epochs, batch, learning rate, weight decay, rho,
# gamma, lambda.
PUBLISHED = {
    "cifar10_lt": (200, 64, 0.1, 2e-4, 0.2, 3.0, 0.5),
    "cifar100_lt": (200, 64, 0.1, 1e-3, 0.3, 3.2, 0.8),
    "imagenet_lt": (200, 256, 0.1, 5e-4, (0.1, 0.2), 0.8, 0.8),
    "inaturalist18": (200, 512, 0.2, 2e-4, 0.2, 2.0, 1.1),
    "clip_cifar10_lt": (20, 128, 0.01, 5e-4, 0.05, 1.5, 0.7),
    "clip_cifar100_lt": (20, 128, 0.01, 5e-4, 0.05, 5.5, 0.8),
    "clip_imagenet_lt": (20, 128, 0.01, 5e-4, 0.05, 0.5, 0.8),
    "clip_inaturalist18": (20, 128, 0.01, 5e-4, 0.02, 0.2, 1.0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_values(name):
    c = get_config(name, "focal_sam")
    rho = c.rho_values if c.rho_schedule == "step" else c.rho
    found = (c.epochs, c.batch_size, c.learning_rate, c.weight_decay, rho)
    assert (*found, c.gamma, c.lam) == PUBLISHED[name]
    assert (c.momentum, c.schedule, c.warmup, c.loss) == (0.9, "cosine", 0, "la")


@pytest.mark.parametrize("factor", [10, 20, 50, 200])
@pytest.mark.parametrize("name", ["cifar10_lt", "cifar100_lt"])
def test_other_factors_differ_in_the_tail_alone(name, factor):
    usual, other = (get_config(n, "focal_sam") for n in (name, f"{name}_if{factor}"))
    assert other.imbalance_factor == factor
    assert other == usual.replace(config=other.config, imbalance_factor=factor)


def run_steps(config, dataset, steps, looks):
    """Trains ``steps`` steps and evaluates ``looks`` batches of the test split."""
    trainer, feed, key = make(config, dataset)
    state = trainer.init(jax.random.key(0))
    for inputs, count in itertools.islice(feed.epoch(0), steps):
        state = trainer.advance(state, inputs, key, count)
    sums = trainer.evaluate(state, itertools.islice(feed.whole(dataset.test), looks))
    feed.close()
    assert (state.step, state.skipped.total) == (steps, 0)
    seen = epoch_means(state.sums)
    assert np.isfinite(seen["loss"]) and np.isfinite(seen.get("sharpness", 0))
    result = scores(sums, dataset.class_counts, config)
    assert np.isfinite(result["loss"]) and 0 <= result["accuracy"] <= 1
    return trainer, sums
