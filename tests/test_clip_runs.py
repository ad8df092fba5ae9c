"""Tests of CLIP runs: training, resuming, sharding, zero-shot evaluation, export."""

import json
import shutil

import jax
import numpy as np
import pytest

pytest.importorskip("flax", reason="needs focal_sam_jax[experiments]")
pytest.importorskip("tokenizers", reason="needs focal_sam_jax[clip]")

import jax.numpy as jnp
import safetensors
from clip_files import write_clip
from commands import finish, metrics, start
from flax.traverse_util import unflatten_dict
from rich.console import Console
from tiny_runs import make, run_train
from tiny_runs import train as trained

from experiments import devices, export, zero_shot
from experiments.configs import get_config
from experiments.data.images.resize import eval_view
from experiments.data.load import load_dataset
from experiments.errors import UserError
from experiments.models import class_embeddings, image_features, make_model
from experiments.models.clip.files import open_clip
from experiments.records.manifest import config_of, read_manifest
from experiments.training.checkpoint import last_network
from experiments.training.criterion import make_loss
from experiments.training.optimizer import make_optimizer
from experiments.training.start import class_prompts
from experiments.training.step import init_state, make_train_step

# Digits instead of photographs, enlarged on the device.
DIGITS = {
    "data": "digits",
    "image_size": 8,
    "input_size": 32,
    "imbalance_factor": 30.0,
    "augment": "affine",
    "batch_size": 32,
    "epochs": 2,
}
LINEAR = ("lora", "lora_mlp", "ssf_attention", "ssf_mlp", "ssf_layer_norm", "bias")


def flags(**values):
    for name, value in values.items():
        yield "--" + name.replace("_", "-")
        yield from value if isinstance(value, tuple) else [value]


def config_for(weights, method="focal_sam", **changes):
    config = get_config("clip_cifar100_lt", method)
    changes = {**DIGITS, "weights": str(weights), "precision": "float32", **changes}
    return config.replace(**changes)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder)
    return folder


def train_command(weights, run_dir, *more, **changes):
    options = {**DIGITS, "weights": weights, "run_dir": run_dir, **changes}
    recipe = ["--config", "clip_cifar100_lt", "--method", "focal_sam"]
    return finish(start("train", *recipe, *flags(**options), *more))


@pytest.fixture(scope="module")
def run_dir(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    options = {"tuners": LINEAR, "precision": "float32"}
    status, said = train_command(weights, folder, **options)
    assert status == 0, said
    return folder


@pytest.mark.slow
def test_the_command_trains_the_recipe(weights, tmp_path):
    """The recipe is unchanged: bfloat16, AdaptFormer, a head from prompts."""
    folder = tmp_path / "run"
    status, said = train_command(weights, folder)
    assert status == 0, said
    rows = metrics(folder)
    losses = [row["loss"] for row in rows if row["split"] == "train"]
    assert len(losses) == 2 and losses[1] < losses[0]
    assert [row["which"] for row in rows if row["split"] == "test"] == ["last", "best"]
    manifest = read_manifest(folder)
    assert config_of(manifest).tuners == ("adaptformer",)
    _, params, _ = last_network(folder)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert manifest["parameters"] == size
    # Two layers, width 32, bottleneck 2; ten columns for the classes.
    adaptformer = 2 * (32 * 2 + 2 * 2 * 32 + 2 + 32 + 1)
    assert size == adaptformer + 32 * 10
    tower = open_clip(str(weights)).vision()["vision"]
    assert manifest["frozen_parameters"] == size_in_bytes(tower) // 4


@pytest.mark.slow
def test_a_resumed_run_is_the_same_run(weights, run_dir, tmp_path):
    folder = shutil.copytree(run_dir, tmp_path / "run")
    newest = max((folder / "checkpoints").glob("[0-9]*"), key=lambda p: int(p.name))
    for path in sorted(newest.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    newest.rmdir()
    options = {"tuners": LINEAR, "precision": "float32"}
    status, said = train_command(weights, folder, "--resume", **options)
    assert status == 0, said
    assert metrics(folder) == metrics(run_dir)


def test_missing_weights_leave_no_folder(tmp_path):
    options = flags(**DIGITS, weights=tmp_path / "nothing")
    with pytest.raises(UserError, match="no such folder or file exists"):
        run_train(tmp_path / "run", "--config", "clip_cifar100_lt", *options)
    assert not (tmp_path / "run").exists()


def read_tree(path):
    """Returns the nested dicts and the metadata of a safetensors file."""
    with safetensors.safe_open(path, "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
        about = {name: json.loads(text) for name, text in file.metadata().items()}
    return unflatten_dict(arrays, sep="."), about


def one_epoch(config, mesh, split_state):
    dataset = load_dataset(config, None)
    trainer, feed, key = make(config, dataset, mesh=mesh, split_state=split_state)
    state = trained(trainer, feed, key)
    return state, trainer.evaluate(state, feed.whole(dataset.test))


@pytest.mark.slow
@pytest.mark.parametrize("tuner", ["full", "adaptformer"])
def test_a_split_network_learns_the_same(tuner, tmp_path):
    write_clip(tmp_path, width=128)
    config = config_for(tmp_path, tuners=(tuner,), learning_rate=1e-3)
    state, sums = one_epoch(config, devices.device_mesh(1), split_state=False)
    split, split_sums = one_epoch(config, devices.device_mesh(8), split_state=True)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
        state.params,
        split.params,
    )
    np.testing.assert_allclose(sums.loss, split_sums.loss, rtol=1e-3)
    if tuner == "full":
        kernel = split.params["vision"]["block0"]["qkv"]["kernel"]
        assert kernel.addressable_shards[0].data.size == kernel.size // 8


def memory_of_a_step(config):
    """Returns the state, and the argument and temporary bytes of a compiled step."""
    model = make_model(config, 10, channels=3)
    tx = make_optimizer(config, np.full(10, 5), 1)
    loss = make_loss(config, np.full(10, 5))
    step = make_train_step(config, model, tx, loss, 10, 1)
    state = jax.eval_shape(
        lambda key: init_state(key, model, tx, ema=0.0), jax.random.key(0)
    )
    size = config.network_size
    batch = jnp.zeros((4, size, size, 3)), jnp.zeros(4, jnp.int32)
    compiled = (
        jax.jit(step, donate_argnums=0).lower(state, model.frozen, *batch).compile()
    )
    memory = compiled.memory_analysis()
    return state, memory.argument_size_in_bytes, memory.temp_size_in_bytes


def size_in_bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.slow
def test_memory_for_frozen_weights_is_paid_once(tmp_path):
    tower = size_in_bytes(write_clip(tmp_path, width=512).vision()["vision"])
    tuned, arguments, beside = memory_of_a_step(config_for(tmp_path))
    full, all_arguments, beside_all = memory_of_a_step(
        config_for(tmp_path, tuners=("full",))
    )
    # All weights once; momentum, gradients and perturbed weights of trained ones only.
    assert size_in_bytes(tuned.opt_state) < 0.1 * tower
    assert tower < arguments < 1.2 * tower
    assert beside < 0.8 * tower
    # If all weights are trained: momentum in the arguments, gradients in temporaries.
    assert all_arguments > 1.9 * tower
    assert beside_all > beside + 1.5 * tower


def features_of(weights, config, dataset, split):
    """Returns the image features of a split, and the model."""
    stored = jnp.asarray(split.images.astype(np.float32))
    seen = (np.asarray(eval_view(config, stored)) - dataset.mean) / dataset.std
    clip = open_clip(str(weights))
    tower = image_features(clip.architecture.vision, clip.vision()["vision"])
    return np.asarray(tower.apply({}, {}, seen, train=False)[0]), clip


@pytest.mark.slow
def test_a_head_starts_from_the_mean_features_of_its_classes(weights):
    config = config_for(weights, head_init="class_means")
    dataset = load_dataset(config, None)
    trainer, *_ = make(config, dataset)
    columns = trainer.init(jax.random.key(0)).params["head"]["columns"]
    np.testing.assert_allclose(np.linalg.norm(columns, axis=0), 1, rtol=1e-5)
    features, _ = features_of(weights, config, dataset, dataset.train)
    for label in (0, 9):
        mean = features[dataset.train.labels == label].mean(axis=0)
        np.testing.assert_allclose(
            columns[:, label], mean / np.linalg.norm(mean), atol=1e-4
        )


@pytest.mark.slow
def test_merged_weights_do_what_the_tuned_network_did(run_dir, tmp_path):
    config = config_of(read_manifest(run_dir))
    export.run(export.Job(run_dir, tmp_path / "out"), Console(quiet=True))
    _, params, batch_stats = last_network(run_dir)
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    tuned = make_model(config, 10, channels=3)
    wanted, _ = tuned.apply(params, batch_stats, images, train=False)

    merged = config.replace(weights=str(tmp_path / "out"), tuners=())
    head, about = read_tree(tmp_path / "out" / export.HEAD)
    probe = make_model(merged, 10, channels=3)
    logits, _ = probe.apply({"head": head}, {}, images, train=False)
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)
    assert about["head_scale"] == 25.0 and len(about["class_names"]) == 10
    # Training changed the logits: the initial model gives different ones.
    base = make_model(config.replace(tuners=()), 10, channels=3)
    before, _ = base.apply({"head": head}, {}, images, train=False)
    assert not np.allclose(before, wanted, rtol=1e-2, atol=1e-2)
    with pytest.raises(UserError, match="already exists"):
        export.run(export.Job(run_dir, tmp_path / "out"), Console(quiet=True))


@pytest.mark.slow
def test_separate_weights_are_what_was_trained(run_dir, tmp_path):
    job = export.Job(run_dir, tmp_path / "out", separate=True)
    export.run(job, Console(quiet=True))
    tuned, about = read_tree(tmp_path / "out" / export.TUNED)
    step, params, _ = last_network(run_dir)
    jax.tree.map(np.testing.assert_array_equal, tuned, params)
    assert about["step"] == step and tuple(about["tuners"]) == LINEAR


@pytest.mark.slow
def test_clip_is_judged_without_training(weights, tmp_path):
    options = {name: DIGITS[name] for name in ("data", "image_size", "input_size")}
    options |= {"augment": "none", "imbalance_factor": 30.0, "precision": "float32"}
    options["head_init"] = "text_ensemble"
    out = tmp_path / "scores.json"
    command = ["zero_shot", *flags(weights=weights, out=out, **options)]
    status, said = finish(start(*command))
    assert status == 0, said
    scores = json.loads(out.read_text())
    config = get_config("clip_cifar100_lt", "focal_sam")
    config = config.replace(weights=str(weights), **options)
    dataset = load_dataset(config, None)
    features, clip = features_of(weights, config, dataset, dataset.test)
    texts = class_embeddings(clip, class_prompts(config, dataset))
    nearest = features @ clip.vision()["vision_projection"]["kernel"] @ texts.T
    right = nearest.argmax(1) == dataset.test.labels
    assert scores["accuracy"] == pytest.approx(right.mean())
    of_class = [right[dataset.test.labels == c].mean() for c in range(10)]
    assert scores["accuracy_per_class"] == pytest.approx(of_class)
    for job, words in (
        (zero_shot.Job(config, out=out), "already exists"),
        (zero_shot.Job(config.replace(input_size=224)), "of 32 pixels, got 224: set"),
    ):
        with pytest.raises(UserError, match=words):
            zero_shot.run(job, Console(quiet=True))
