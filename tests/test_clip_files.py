"""Tests of reading CLIP's weights, tokenizer and sizes, and of the errors."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax", reason="needs focal_sam_jax[experiments]")
pytest.importorskip("tokenizers", reason="needs focal_sam_jax[clip]")

from clip_files import CONTEXT, write_clip
from safetensors.numpy import load_file, save_file

from experiments.configs import get_config
from experiments.errors import UserError
from experiments.models import make_model
from experiments.models.clip.architecture import (
    ARCHITECTURES,
    from_hugging_face,
    to_hugging_face,
)
from experiments.models.clip.columns import (
    class_embeddings,
    text_columns,
    text_embeddings,
)
from experiments.models.clip.files import open_clip
from experiments.models.clip.tokenizer import Tokenizer
from experiments.training.start import check_head_init


@pytest.fixture
def folder(tmp_path):
    write_clip(tmp_path)
    return tmp_path


def assert_same_trees(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_comes_back_from_its_json(name):
    config = json.loads(json.dumps(to_hugging_face(ARCHITECTURES[name])))
    assert from_hugging_face(config) == ARCHITECTURES[name]


def test_what_a_config_leaves_out_is_vit_b_32():
    found = from_hugging_face({})
    assert found.vision == ARCHITECTURES["ViT-B/32"].vision
    assert found.text.transformer == ARCHITECTURES["ViT-B/32"].text.transformer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "relu"}, "must be one of quick_gelu, gelu, got 'relu'"),
        ({"num_attention_heads": 7}, "a multiple of its 7 attention heads"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps of CLIP's vision tower"),
    ],
)
def test_other_architectures_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        from_hugging_face({"vision_config": changes})


@pytest.mark.parametrize("dtype", [np.float16, "bfloat16"])
def test_narrow_weights_are_read_as_float32(folder, dtype):
    path = folder / "model.safetensors"
    narrow = {name: jnp.asarray(x, dtype) for name, x in load_file(path).items()}
    from safetensors.flax import save_file

    save_file(narrow, path)
    kernel = open_clip(str(folder)).vision()["vision"]["block0"]["fc1"]["kernel"]
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, np.asarray(narrow[name], np.float32).T)


def test_weights_with_openais_names_are_refused(tmp_path):
    path = tmp_path / "open_clip_model.safetensors"
    save_file({"visual.proj": np.zeros((64, 16), np.float32)}, path)
    with pytest.raises(UserError, match="names of OpenAI and OpenCLIP.*Hugging Face"):
        open_clip(str(path))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "must contain a JSON object"),
        (
            lambda f: (f / "config.json").write_text('{"model_type": "bert"}'),
            "a model of type 'bert'",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"none"),
            "cannot be read as safetensors",
        ),
    ],
)
def test_damaged_folders_are_explained(folder, damage, message):
    damage(folder)
    with pytest.raises(UserError, match=message):
        open_clip(str(folder))


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_arrays_that_do_not_fit_are_explained(folder, change):
    path = folder / "model.safetensors"
    arrays = load_file(path)
    name = "vision_model.encoder.layers.1.self_attn.k_proj.weight"
    array = arrays.pop(name)
    if change == "shape":
        arrays[name] = array[:-1].copy()
    save_file(arrays, path)
    clip = open_clip(str(folder))
    message = "have no array" if change == "missing" else "has shape"
    with pytest.raises(UserError, match=message):
        clip.vision()
    clip.text()


def test_names_that_mean_nothing_are_explained():
    with pytest.raises(UserError, match="after random: expected one of ViT-B/32"):
        open_clip("random:ViT-B/8")
    with pytest.raises(UserError, match="no such folder or file exists"):
        open_clip("nowhere at all")


def test_without_a_network_the_hub_is_explained(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def offline(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(UserError, match="cannot be fetched.*copy the model's folder"):
        open_clip("openai/clip-vit-base-patch16")


def test_a_model_of_the_hub_is_read_where_the_hub_put_it(folder, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **kwargs: str(folder))
    there = open_clip("someone/clip")
    assert_same_trees(there.vision(), open_clip(str(folder)).vision())


# Tokenizer.


def tokenizer(folder):
    return Tokenizer(
        folder / "tokenizer.json", open_clip(str(folder)).architecture.text
    )


def test_a_text_has_a_start_an_end_and_zeros(folder):
    short, long = tokenizer(folder)(["The cat", "x " * 40])
    start, end = 517, 518
    assert short.dtype == np.int32 and short.shape == (CONTEXT,)
    assert short[0] == start and list(short).count(end) == 1
    assert not short[list(short).index(end) + 1 :].any()
    assert long[0] == start and long[-1] == end and list(long).count(end) == 1


@pytest.mark.slow
def test_tokens_are_those_of_transformers(folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json")
    )
    texts = ["A photo of the CAT.", "3 dogs' beds!", "naïve café 東京"]
    for text, ours in zip(texts, tokenizer(folder)(texts), strict=True):
        wanted = theirs(text)["input_ids"][:CONTEXT]
        if len(wanted) == CONTEXT:
            wanted[-1] = 518
        assert list(ours[: len(wanted)]) == wanted


def test_tokenizers_that_do_not_fit_are_explained(folder, tmp_path):
    path = folder / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(UserError, match="is not a tokenizer"):
        tokenizer(folder)
    path.unlink()
    with pytest.raises(UserError, match="is missing: copy it.*--head-init random"):
        tokenizer(folder)


# Class embeddings.


@pytest.mark.slow
def test_a_class_is_the_mean_of_its_prompts(folder):
    clip = open_clip(str(folder))
    prompts = [
        ["a cat", "the cat!"],
        ["dog", "a photo of a dog"],
        ["x", "a photo of x"],
    ]
    found = class_embeddings(clip, prompts)
    encode = text_embeddings(clip.architecture)
    for of_class, ours in zip(prompts, found, strict=True):
        tokens = tokenizer(folder)(of_class)
        every = np.array(encode(clip.text(), tokens))
        every /= np.linalg.norm(every, axis=1, keepdims=True)
        mean = every.mean(axis=0)
        np.testing.assert_allclose(ours, mean / np.linalg.norm(mean), atol=1e-5)
    columns = text_columns(clip, prompts)
    wanted = clip.vision()["vision_projection"]["kernel"] @ found.T
    wanted /= np.linalg.norm(wanted, axis=0, keepdims=True)
    np.testing.assert_allclose(columns, wanted, atol=1e-5)


def test_many_prompts_are_encoded_in_parts(folder):
    clip = open_clip(str(folder))
    words = [[f"photo {i}"] for i in range(300)]
    every = class_embeddings(clip, words)
    np.testing.assert_allclose(
        every[290], class_embeddings(clip, words[290:291])[0], atol=1e-5
    )


# Command-line options.


def config(**changes):
    return get_config("clip_cifar100_lt", "sgd").replace(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "linear"}, "--head-init text is for --model clip with --head cosine"),
        ({"model": "resnet32"}, "got --model resnet32"),
    ],
)
def test_heads_that_cannot_start_so_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        check_head_init(config(**changes))
    check_head_init(config(head_init="random", **changes))


def test_images_of_another_size_are_refused(folder):
    with pytest.raises(UserError, match="images of 32 pixels, got 224: set --input"):
        make_model(config(weights=str(folder)), 10, channels=3)
