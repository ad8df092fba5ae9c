"""Tests of ResNets that start from weights on disk, and of exported weights."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

pytest.importorskip("flax", reason="needs focal_sam_jax[experiments]")
pytest.importorskip("safetensors", reason="needs focal_sam_jax[clip]")
pytest.importorskip("PIL", reason="needs focal_sam_jax[data]")

from PIL import Image
from rich.console import Console
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from experiments.config import Config
from experiments.data.load import load_dataset
from experiments.devices import device_mesh
from experiments.errors import UserError
from experiments.export import Job
from experiments.export import run as export
from experiments.models import (
    from_pytorch,
    has_head,
    network_of,
    open_pretrained,
    pretrained_network,
    resnet50,
    resnet_cifar,
    resnext50_32x4d,
    to_pytorch,
)
from experiments.records.manifest import (
    as_json,
    create_run,
    describe_run,
    write_json,
)
from experiments.train import Job as TrainJob
from experiments.train import parse
from experiments.train import run as train
from experiments.training.checkpoint import Best, Checkpoints, last_network
from experiments.training.trainer import make_trainer

CLASSES = 3


def drawn(model, seed=0):
    """Draws weights and statistics of a network with NumPy, without compiling."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32), shapes
    )


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def hugging_face(name):
    """The name that transformers gives to an array of torchvision's ResNet-50."""
    layer, *rest = name.split(".")
    if layer in ("conv1", "bn1"):
        kind = "convolution" if layer == "conv1" else "normalization"
        return ".".join(["resnet.embedder.embedder", kind, *rest])
    if layer == "fc":
        return ".".join(["classifier.1", *rest])
    block, part, *rest = rest
    prefix = f"resnet.encoder.stages.{int(layer[-1]) - 1}.layers.{block}"
    if part == "downsample":
        number, *rest = rest
        kind = ("convolution", "normalization")[int(number)]
        return ".".join([prefix, "shortcut", kind, *rest])
    kind = "convolution" if part.startswith("conv") else "normalization"
    return ".".join([prefix, "layer", str(int(part[-1]) - 1), kind, *rest])


NAMINGS = {
    "torchvision": lambda name: name,
    "hugging face": hugging_face,
    "hugging face, the body": lambda n: hugging_face(n).removeprefix("resnet."),
    "data parallel": lambda name: f"module.{name}",
}


@pytest.mark.by_default(naming=("torchvision", "hugging face"))
@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_gives_the_same_network(naming, tmp_path):
    model = resnet50(CLASSES)
    network = drawn(model)
    arrays = to_pytorch(*network, "fc")
    arrays["bn1.num_batches_tracked"] = np.array(7)
    named = {NAMINGS[naming](name): array for name, array in arrays.items()}
    assert naming == "torchvision" or not named.keys() & arrays.keys()
    save_file(named, tmp_path / "model.safetensors")
    for where in (tmp_path, tmp_path / "model.safetensors"):
        found = open_pretrained(str(where))
        assert network_of(found) == "resnet50"
        assert has_head(found, model)
    assert_same(pretrained_network(found, model), network)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (resnext50_32x4d(CLASSES), "resnext50"),
        (resnet_cifar(20, CLASSES), "resnet20"),
        (resnet_cifar(32, CLASSES), "resnet32"),
        (resnet_cifar(44, CLASSES), "resnet44"),
        (resnet_cifar(56, CLASSES), "resnet56"),
    ],
    ids=["resnext50", "resnet20", "resnet32", "resnet44", "resnet56"],
)
def test_a_network_is_known_by_its_weights(model, name, tmp_path):
    network = drawn(model)
    arrays = to_pytorch(*network, "linear")
    assert_same(from_pytorch(arrays, model), network)
    save_file(arrays, tmp_path / "x.safetensors")
    found = open_pretrained(str(tmp_path))
    assert network_of(found) == name
    assert_same(pretrained_network(found, model), network)


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_a_last_layer_of_other_classes_is_left_out(head, tmp_path):
    params, batch_stats = drawn(resnet_cifar(20, CLASSES))
    arrays = to_pytorch(params, batch_stats, "linear")
    arrays = {n: a.astype(np.float16) for n, a in arrays.items()}
    save_file(arrays, tmp_path / "model.safetensors")
    found = open_pretrained(str(tmp_path))
    model = resnet_cifar(20, CLASSES + (head == "linear"), head=head)
    assert not has_head(found, model)
    params_found, batch_stats_found = pretrained_network(found, model)
    del params["head"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3),
        (params_found, batch_stats_found),
        (params, batch_stats),
    )
    leaves = jax.tree.leaves((params_found, batch_stats_found))
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}


def test_weights_of_another_network_are_refused(tmp_path):
    arrays = to_pytorch(*drawn(resnet_cifar(20, CLASSES)), "linear")
    path = tmp_path / "model.safetensors"
    save_file(arrays, path)
    with pytest.raises(UserError, match=r"--init-weights .* have no layer1\.3\.bn1"):
        pretrained_network(open_pretrained(str(path)), resnet_cifar(32, CLASSES))
    save_file({"encoder.weight": np.zeros(3, np.float32)}, path)
    with pytest.raises(UserError, match="none of the networks .* are encoder.weight"):
        network_of(open_pretrained(str(path)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("resnet50.pth", b"", r"takes safetensors, got .*resnet50\.pth: .*save_file"),
        ("model.safetensors", b"not", "cannot be read as safetensors"),
        ("other.txt", b"", r"has no model\.safetensors"),
        (None, None, "no such folder or file exists"),
    ],
)
def test_what_cannot_be_read_is_said(name, content, message, tmp_path):
    where = tmp_path / "no" / "where"
    if name:
        (tmp_path / name).write_bytes(content)
        where = tmp_path if name == "other.txt" else tmp_path / name
    with pytest.raises(UserError, match=message):
        open_pretrained(str(where))


def test_without_the_package_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="needs the package safetensors: pip install"):
        open_pretrained(str(tmp_path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, count in {"a": 10, "b": 6, "c": 4}.items():
        (folder / name).mkdir()
        for i in range(count):
            pixels = rng.integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def config_with(folder, *options):
    options = ["--data", f"folder:{folder}", "--epochs", "1", *options]
    return parse([*options, "--method", "sgd", "--image-size", "8"]).config


def started(config, run_dir):
    """Writes a run's initial state as checkpoint and returns it."""
    dataset = load_dataset(config, Path())
    trainer = make_trainer(config, dataset, device_mesh(), 2)
    state = trainer.init(jax.random.key(0))
    create_run(run_dir, describe_run(config, dataset, {}, {}, []))
    checkpoints = Checkpoints(run_dir, config, trainer.shapes)
    checkpoints.save(0, state, Best())
    checkpoints.close()
    return state


@pytest.fixture(scope="module")
def run_dir(folder, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "resnet"
    config = config_with(folder, "--model", "resnet20", "--ema", "0.5")
    started(config, run_dir)
    return run_dir


@pytest.fixture(scope="module")
def exported(run_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "resnet"
    export(Job(run_dir, out), Console(quiet=True))
    return out


def test_a_run_is_exported_as_it_is_evaluated(run_dir, exported):
    step, *network = last_network(run_dir)
    arrays = load_file(exported / "model.safetensors")
    assert_same(from_pytorch(arrays, resnet_cifar(20, CLASSES)), tuple(network))
    with safe_open(exported / "model.safetensors", framework="np") as file:
        about = {k: json.loads(v) for k, v in file.metadata().items() if k != "format"}
    assert about["class_names"] == ["a", "b", "c"] and about["step"] == step
    config = json.loads((exported / "config.json").read_text())
    assert (config["architecture"], config["num_classes"]) == ("resnet20", 3)
    assert config["pretrained_cfg"]["mean"] == [0.485, 0.456, 0.406]
    assert config["pretrained_cfg"]["input_size"] == [3, 8, 8]
    assert config["pretrained_cfg"]["crop_pct"] == 1


def test_a_run_starts_from_weights_by_their_network(folder, exported, tmp_path):
    options = ["--init-weights", str(exported), "--ema", "0.5"]
    config = config_with(folder, *options)
    assert config.model == "resnet20"
    state = started(config, tmp_path / "whole")
    arrays = load_file(exported / "model.safetensors")
    wanted = from_pytorch(arrays, resnet_cifar(20, CLASSES))
    assert_same((state.params, state.batch_stats), wanted)
    assert_same(state.average, wanted)

    config = config_with(folder, *options, "--head", "cosine")
    state = started(config, tmp_path / "body")
    columns = state.params.pop("head")["columns"]
    params, batch_stats = wanted
    del params["head"]
    assert_same((state.params, state.batch_stats), (params, batch_stats))
    np.testing.assert_allclose(np.linalg.norm(columns, axis=0), 1, rtol=1e-5)


@pytest.mark.slow
def test_several_seeds_start_from_the_same_weights(folder, exported):
    config = config_with(folder, "--init-weights", str(exported), "--head", "cosine")
    dataset = load_dataset(config, Path())
    trainer = make_trainer(config, dataset, device_mesh(), 2, over_seeds=True)
    keys = jax.vmap(jax.random.key)(np.arange(2))
    first, second = (
        jax.tree.map(lambda leaf, i=i: leaf[i], trainer.init(keys).params)
        for i in range(2)
    )
    assert not np.allclose(first.pop("head")["columns"], second.pop("head")["columns"])
    assert_same(first, second)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_it_trains_and_says_what_it_starts_from(folder, exported, tmp_path, head):
    config = config_with(folder, "--init-weights", str(exported), "--head", head)
    console = Console(record=True, width=500)
    train(TrainJob(config, run_dir=tmp_path / "run"), console)
    but = "" if head == "linear" else ", except the last layer, which does not"
    assert f"Starts from {exported}{but}" in console.export_text()


def test_weights_make_a_short_run_at_their_own_size(folder, exported):
    config = parse(
        ["--data", f"folder:{folder}", "--init-weights", str(exported)]
    ).config
    assert (config.model, config.epochs, config.image_size) == ("resnet20", 30, 32)
    assert config.learning_rate == pytest.approx(0.1 * 8 / 64 * 0.1)
    with pytest.raises(UserError, match="--init-weights has no effect with --model"):
        parse(["--init-weights", str(exported)])


def test_a_cosine_layer_lies_beside_what_others_read(folder, tmp_path):
    options = ["--model", "resnet20", "--loss", "ldam", "--head", "cosine"]
    started(config_with(folder, *options), tmp_path / "run")
    export(Job(tmp_path / "run", tmp_path / "out"), Console(quiet=True))
    names = load_file(tmp_path / "out" / "model.safetensors").keys()
    assert "layer3.2.conv2.weight" in names
    assert not any(name.startswith("linear") for name in names)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_classes"] == 0 and config["label_names"] == ["a", "b", "c"]
    with safe_open(tmp_path / "out" / "head.safetensors", framework="np") as file:
        assert file.get_tensor("columns").shape == (64, 3)
        assert json.loads(file.metadata()["softmax_scale"]) == 30


def test_what_no_other_program_has_is_not_exported(run_dir, tmp_path):
    run = tmp_path / "digits"
    run.mkdir()
    write_json(run / "manifest.json", {"config": as_json(Config())})
    with pytest.raises(UserError, match="resnet_digits, which no other program reads"):
        export(Job(run, tmp_path / "out"), Console(quiet=True))
    with pytest.raises(UserError, match="--separate is for CLIP"):
        export(Job(run_dir, tmp_path / "out", separate=True), Console(quiet=True))
    with pytest.raises(UserError, match="already exists"):
        export(Job(run_dir, tmp_path), Console(quiet=True))
