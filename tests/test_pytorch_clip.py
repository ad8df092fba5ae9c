"""Tests of CLIP against transformers, with random weights that it saved."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.data.images.decode import resize_and_crop
from experiments.models.clip.architecture import ARCHITECTURES
from experiments.models.clip.classifier import (
    image_features,
    tuned_clip,
    zero_shot_clip,
)
from experiments.models.clip.columns import text_embeddings
from experiments.models.clip.export import write_folder
from experiments.models.clip.files import open_clip
from experiments.models.clip.merge import merged
from experiments.models.clip.towers import TextTower, VisionTower

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TINY = {
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    },
    "text_config": {
        "vocab_size": 100,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": 12,
        "bos_token_id": 98,
        "eos_token_id": 99,
    },
    "projection_dim": 16,
}
GELU = {
    **TINY,
    "vision_config": {**TINY["vision_config"], "hidden_act": "gelu"},
    "text_config": {**TINY["text_config"], "hidden_act": "gelu"},
}
# As wide as ViT-B/16, but less deep.
WIDE = {
    "vision_config": {"patch_size": 16, "num_hidden_layers": 2},
    "text_config": {"num_hidden_layers": 2},
}


def saved(config, folder, **options):
    """Saves a transformers model with random weights; returns it."""
    torch.manual_seed(0)
    with torch.no_grad():
        model = transformers.CLIPModel(transformers.CLIPConfig(**config)).eval()
        for name, weights in model.named_parameters():
            # Far from the initial values, so that nothing cancels by symmetry.
            if weights.ndim == 1:
                weights.add_(0.1 * torch.randn_like(weights))
            elif "embedding" in name:
                weights.copy_(0.5 * torch.randn_like(weights))
    model.save_pretrained(folder, **options)
    return model


def examples(config, batch=3):
    rng = np.random.default_rng(0)
    size = config.image_size
    return rng.normal(size=(batch, size, size, 3)).astype(np.float32)


def texts(config, batch=4):
    rng = np.random.default_rng(1)
    end = config.vocab_size - 1
    length = config.max_position_embeddings
    tokens = rng.integers(0, end - 1, (batch, length)).astype(np.int32)
    for row, place in zip(tokens, rng.integers(2, length, batch), strict=True):
        row[place:] = end
    return tokens


def pixels(images):
    return torch.tensor(images.transpose(0, 3, 1, 2))


def long(tokens):
    return torch.tensor(tokens, dtype=torch.long)


def assert_close(ours, wanted):
    wanted = wanted.numpy()
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5 * abs(wanted).max())


@pytest.mark.parametrize(
    ("config", "options"),
    [
        pytest.param(TINY, {}, id="tiny"),
        pytest.param(GELU, {}, id="gelu"),
        pytest.param(TINY, {"max_shard_size": "20KB"}, id="sharded"),
        pytest.param(WIDE, {}, id="wide"),
    ],
)
def test_features_and_logits_are_those_of_transformers(config, options, tmp_path):
    model = saved(config, tmp_path, **options)
    assert len(list(tmp_path.glob("*.safetensors"))) > bool(options)
    clip = open_clip(str(tmp_path))
    if config is WIDE:
        published = ARCHITECTURES["ViT-B/16"].vision
        two_layers = replace(published.transformer, layers=2)
        assert clip.architecture.vision == replace(published, transformer=two_layers)
    images, tokens = (
        examples(model.config.vision_config),
        texts(model.config.text_config),
    )
    with torch.no_grad():
        wanted = model(input_ids=long(tokens), pixel_values=pixels(images))
        pooled = model.vision_model(pixels(images)).pooler_output
    weights = {**clip.vision(), **clip.text()}
    size = sum(leaf.size for leaf in jax.tree.leaves(weights))
    assert size == sum(p.numel() for p in model.parameters())

    sizes = clip.architecture.vision
    tower = image_features(sizes, clip.vision()["vision"])
    assert_close(outputs(tower, images), pooled)
    of_texts = jax.jit(text_embeddings(clip.architecture))(weights, tokens)
    of_texts /= jnp.linalg.norm(of_texts, axis=1, keepdims=True)
    np.testing.assert_allclose(of_texts, wanted.text_embeds.numpy(), atol=1e-5)
    network = zero_shot_clip(sizes, clip.vision(), np.asarray(of_texts), jnp.float32)
    # Our network uses 100, CLIP's final scale.
    scale = 100 / model.logit_scale.exp().item()
    logits = outputs(network, images)
    assert_close(logits, scale * wanted.logits_per_image)


def outputs(network, images):
    return jax.jit(lambda x: network.apply({}, {}, x, train=False)[0])(images)


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_every_intermediate_result_is_that_of_transformers(tower, tmp_path):
    model = saved(TINY, tmp_path)
    clip = open_clip(str(tmp_path))
    images, tokens = (
        examples(model.config.vision_config),
        texts(model.config.text_config),
    )
    if tower == "vision":
        inputs, causal = images, False
        module = VisionTower(clip.architecture.vision, jnp.float32, nnx.Rngs(0))
        nnx.update(module, clip.vision()["vision"])
        with torch.no_grad():
            wanted = model.vision_model(pixels(images), output_hidden_states=True)
    else:
        inputs, causal = tokens, True
        module = TextTower(clip.architecture.text, jnp.float32, nnx.Rngs(0))
        nnx.update(module, clip.text()["text"])
        with torch.no_grad():
            wanted = model.text_model(long(tokens), output_hidden_states=True)
    x = module.embed(inputs)
    assert len(wanted.hidden_states) == len(module.blocks) + 1
    for block, hidden in zip([None, *module.blocks], wanted.hidden_states, strict=True):
        x = x if block is None else block(x, causal=causal)
        assert x.shape == tuple(hidden.shape)
        assert_close(x, hidden)


@pytest.mark.parametrize("end", [2, 99])
def test_the_end_token_is_found_as_transformers_finds_it(end, tmp_path):
    config = {**TINY, "text_config": {**TINY["text_config"], "eos_token_id": end}}
    model = saved(config, tmp_path)
    clip = open_clip(str(tmp_path))
    tokens = texts(model.config.text_config)
    with torch.no_grad():
        wanted = model.text_model(long(tokens)).pooler_output
    graph = nnx.graphdef(TextTower(clip.architecture.text, jnp.float32, nnx.Rngs(0)))
    assert_close(nnx.merge(graph, clip.text()["text"])(tokens), wanted)


def test_what_we_write_transformers_reads(tmp_path):
    model = saved(TINY, tmp_path / "theirs")
    clip = open_clip(str(tmp_path / "theirs"))
    (tmp_path / "ours").mkdir()
    weights = {**clip.vision(), **clip.text()}
    write_folder(tmp_path / "ours", clip.architecture, weights)
    back, report = transformers.CLIPModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(report.values())
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(back.state_dict()[name], array)


def test_merged_weights_have_equal_logits_in_transformers(tmp_path):
    saved(TINY, tmp_path / "base")
    clip = open_clip(str(tmp_path / "base"))
    sizes, vision = clip.architecture.vision, clip.vision()
    tuners = ("lora", "lora_mlp", "ssf_attention", "ssf_mlp", "ssf_layer_norm")
    model = tuned_clip(
        sizes, 5, tuners=tuners, bottleneck=2, weights=vision["vision"], scale=25.0
    )
    params, _ = model.init(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 1000))
    params = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params
    )
    images = examples(sizes)
    wanted, _ = model.apply(params, {}, images, train=False)

    tower = merged(sizes, tuners, 2, model.frozen["vision"], params["vision"])
    (tmp_path / "merged").mkdir()
    whole = {**vision, "vision": tower, **clip.text()}
    write_folder(tmp_path / "merged", clip.architecture, whole)
    theirs = transformers.CLIPVisionModel.from_pretrained(tmp_path / "merged")
    columns = torch.tensor(np.array(params["head"]["columns"]))
    with torch.no_grad():
        features = theirs(pixels(images)).pooler_output
        cosines = torch.nn.functional.normalize(features, dim=1)
        logits = 25 * cosines @ torch.nn.functional.normalize(columns, dim=0)
    np.testing.assert_allclose(logits.numpy(), wanted, atol=25e-5)


@pytest.mark.parametrize("shape", [(300, 400), (260, 230), (32, 32)])
def test_bicubic_images_are_those_of_transformers(shape):
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    image = pytest.importorskip("PIL.Image").fromarray(pixels)
    processor = transformers.CLIPImageProcessorPil(do_rescale=False, do_normalize=False)
    theirs = processor(image, return_tensors="np")["pixel_values"][0]
    ours = resize_and_crop(image, 224, 224, "bicubic")
    np.testing.assert_array_equal(ours, theirs.transpose(1, 2, 0))
