"""Tests of streamed images: the same with any number of processes."""

import io
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from commands import PATIENCE
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("grain", reason="needs focal_sam_jax[experiments,data]")
from PIL import Image, ImageEnhance

from experiments.data.images.decode import (
    check_image_file,
    decode_rgb,
    import_pillow,
    resize_and_crop,
)
from experiments.data.images.host_crop import (
    color_jitter,
    random_box,
    random_resized_crop,
)
from experiments.data.stream import eval_batches, train_batches
from experiments.errors import UserError

SIZE = 22
SIDE = 12


def encode(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


class Images:
    """Twenty-two images whose red channel encodes their class."""

    upright = False

    def __init__(self, damaged=()):
        self.labels = np.arange(SIZE, dtype=np.int32)[::-1].copy()
        self.encoded = []
        for index, label in enumerate(self.labels):
            pixels = np.array(noise(20 + index, 30 - index, seed=index))
            pixels[..., 0] = 10 * label
            self.encoded.append(encode(Image.fromarray(pixels)))
        for index in damaged:
            self.encoded[index] = self.encoded[index][:100]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.encoded[index]

    def name(self, index):
        return f"image {index}"


def batches(count, source=None, **changes):
    options = {
        "seed": 0,
        "batch_size": 8,
        "image_size": SIDE,
        "interpolation": "bilinear",
        "jitter": True,
        "start_step": 0,
        "workers": 0,
    }
    with train_batches(source or Images(), **(options | changes)) as stream:
        return list(itertools.islice(stream, count))


def evaluation(**changes):
    options = {"batch_size": 8, "image_size": SIDE, "resize": 14, "workers": 0}
    options["interpolation"] = "bilinear"
    return list(eval_batches(Images(), **(options | changes)))


def assert_same(first, second):
    assert len(first) == len(second)
    for arrays in zip(first, second, strict=True):
        for left, right in zip(*arrays, strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 3), (77, 77, 77)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBA", (1, 2, 3, 0), (1, 2, 3)),
        ("I;16", 0x4D21, (0x4D, 0x4D, 0x4D)),
    ],
)
def test_every_kind_of_png_becomes_rgb(mode, value, expected):
    decoded = decode_rgb(encode(Image.new(mode, (3, 2), value)), "it", upright=False)
    assert decoded.mode == "RGB" and decoded.size == (3, 2)
    assert np.all(np.asarray(decoded) == expected)


@pytest.mark.parametrize("transparency", [{}, {"transparency": b"\x00\x80"}])
def test_a_palette_is_looked_up(transparency):
    image = Image.new("P", (3, 2), 1)
    image.putpalette([9, 9, 9, 1, 2, 3])
    decoded = decode_rgb(encode(image, **transparency), "it", upright=False)
    assert np.all(np.asarray(decoded) == (1, 2, 3))


@pytest.mark.parametrize(("mode", "ink"), [("L", 200), ("CMYK", (0, 0, 0, 55))])
def test_grey_and_cmyk_jpeg_become_rgb(mode, ink):
    encoded = encode(Image.new(mode, (16, 16), ink), "JPEG")
    decoded = decode_rgb(encoded, "it", upright=False)
    np.testing.assert_allclose(np.asarray(decoded), 200, atol=2)


def test_images_are_turned_where_their_source_says_so():
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned by 90 degrees, clockwise
    stored = Image.new("L", (20, 10))
    stored.paste(255, (0, 0, 10, 10))  # white on the left
    encoded = encode(stored, "PNG", exif=turned)
    assert decode_rgb(encoded, "it", upright=False).size == (20, 10)
    shown = decode_rgb(encoded, "it", upright=True)
    assert shown.size == (10, 20)
    assert shown.getpixel((5, 2)) == (255, 255, 255)
    assert shown.getpixel((5, 17)) == (0, 0, 0)
    # Invalid EXIF turns nothing.
    broken = encode(stored, "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode_rgb(broken, "it", upright=True).size == (20, 10)


@pytest.mark.parametrize("encoded", [b"", b"no image", encode(noise(9, 9))[:60]])
def test_what_is_no_image_is_named(encoded):
    with pytest.raises(UserError, match=r"^n01/x\.png cannot be read as an image \("):
        decode_rgb(encoded, "n01/x.png", upright=True)


def test_floating_point_pixels_are_refused(tmp_path):
    image = Image.fromarray(np.ones((4, 4), np.float32))
    image.save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match="floating-point numbers of unknown range"):
        decode_rgb((tmp_path / "a.tiff").read_bytes(), "it", upright=False)
    with pytest.raises(UserError, match="floating-point numbers of unknown range"):
        check_image_file(str(tmp_path / "a.tiff"))


def test_any_error_of_a_decoder_is_a_sentence(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no frame")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UserError, match=r"it cannot be read as an image \(no frame\)"):
        decode_rgb(b"", "it", upright=False)


# With a damaged header, an image may claim any size.
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@given(st.sampled_from(["PNG", "JPEG", "GIF"]), st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_the_damage_there_is_an_image_or_a_sentence(form, data):
    encoded = bytearray(encode(noise(24, 16), form))
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(encoded) - 1))
        encoded[place] = data.draw(st.integers(0, 255))
    encoded = bytes(encoded[: data.draw(st.integers(0, len(encoded)))])
    try:
        assert decode_rgb(encoded, "it", upright=True).mode == "RGB"
    except UserError as error:
        assert str(error).startswith("it cannot be read")


each_interpolation = pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])


@pytest.mark.by_default(interpolation=("bicubic",))
@each_interpolation
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 30), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_the_middle_square_is_that_of_pillow(
    interpolation, width, height, size, margin
):
    image = noise(width, height)
    resize = size + margin
    scale = resize / min(width, height)
    # As Resize and CenterCrop of torchvision do.
    wide, high = (
        resize if side == min(width, height) else int(side * scale + 1e-9)
        for side in (width, height)
    )
    left, top = round((wide - size) / 2), round((high - size) / 2)
    whole = image.resize((wide, high), Image.Resampling[interpolation.upper()])
    expected = whole.crop((left, top, left + size, top + size))
    result = resize_and_crop(image, resize, size, interpolation)
    assert result.shape == (size, size, 3) and result.dtype == np.uint8
    np.testing.assert_array_equal(result, np.asarray(expected))


@pytest.mark.parametrize("columns", [9, 12, 13])
def test_an_image_of_the_right_size_keeps_its_pixels(columns):
    image = noise(columns, 9)
    first = round((columns - 9) / 2)
    expected = np.asarray(image)[:, first : first + 9]
    np.testing.assert_array_equal(resize_and_crop(image, 9, 9, "bilinear"), expected)


def test_a_larger_image_is_averaged_not_sampled():
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    image = Image.fromarray(np.stack([board] * 3, axis=-1).astype(np.uint8))
    np.testing.assert_allclose(
        resize_and_crop(image, 16, 16, "bilinear")[2:-2, 2:-2], 127.5, atol=3
    )


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_a_part_lies_in_the_image(width, height, seed):
    left, top, right, bottom = random_box(width, height, np.random.default_rng(seed))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    columns, rows = right - left, bottom - top
    # Each side was rounded, by half a pixel at most.
    assert (columns - 0.5) / (rows + 0.5) <= 4 / 3
    assert (columns + 0.5) / (rows - 0.5) >= 3 / 4


def test_parts_have_the_published_distribution():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(1000, 1000, rng) for _ in range(20_000)])
    columns, rows = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    areas, ratios = columns * rows / 1e6, np.log(columns / rows) / np.log(4 / 3)
    assert areas.min() > 0.079 and areas.max() > 0.95
    # Up to 3/4 of the area every ratio fits: both are uniform.
    fitting = areas < 0.75
    quantiles = np.linspace(0.1, 0.9, 9)
    expected = 0.08 + quantiles * 0.67
    np.testing.assert_allclose(
        np.quantile(areas[fitting], quantiles), expected, atol=0.02
    )
    expected = -1 + 2 * quantiles
    np.testing.assert_allclose(
        np.quantile(ratios[fitting], quantiles), expected, atol=0.05
    )
    places = boxes[fitting, :2] / (1000 - np.stack([columns, rows], axis=-1)[fitting])
    np.testing.assert_allclose(
        np.quantile(places, quantiles, axis=0), np.stack([quantiles] * 2, -1), atol=0.02
    )


@pytest.mark.parametrize(
    ("shape", "box"),
    [((10, 1000), (0, 493, 10, 506)), ((1000, 10), (493, 0, 506, 10))],
)
def test_a_part_of_a_stripe_is_its_middle(shape, box):
    assert random_box(*shape, np.random.default_rng(0)) == box


@each_interpolation
def test_a_part_is_cut_then_resized_then_mirrored_half_the_time(interpolation):
    image, mirrored = noise(50, 40), 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        result = np.asarray(random_resized_crop(image, 16, interpolation, rng))
        part = image.crop(random_box(50, 40, np.random.default_rng(seed)))
        part = np.asarray(
            part.resize((16, 16), Image.Resampling[interpolation.upper()])
        )
        if np.array_equal(result, part[:, ::-1]):
            mirrored += 1
        else:
            np.testing.assert_array_equal(result, part)
    assert 30 < mirrored < 70


def test_jitter_changes_brightness_contrast_and_colour_in_any_order():
    image, orders = noise(8, 8), set()
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for seed in range(60):
        result = color_jitter(image, np.random.default_rng(seed))
        factors = np.random.default_rng(seed).uniform(0.6, 1.4, 3)
        for order in itertools.permutations(range(3)):
            changed = image
            for i in order:
                changed = enhancers[i](changed).enhance(factors[i])
            if np.array_equal(np.asarray(changed), np.asarray(result)):
                orders.add(order)
                break
        else:
            pytest.fail("no order of the three gives this image")
    assert len(orders) == 6


def test_batches_have_the_documented_form():
    [(images, labels)] = batches(1, batch_size=6)
    assert images.shape == (6, SIDE, SIDE, 3) and images.dtype == np.uint8
    assert labels.shape == (6,) and labels.dtype == np.int32


def test_every_image_comes_with_its_label():
    for images, labels in batches(6, jitter=False):
        assert np.all(images[..., 0] == 10 * labels[:, None, None])


@pytest.mark.parametrize("batch_size", [1, 5, 8, 11, 22])
def test_an_epoch_shows_every_example_at_most_once(batch_size):
    per_epoch = SIZE // batch_size
    labels = [labels for _, labels in batches(3 * per_epoch, batch_size=batch_size)]
    epochs = np.concatenate(labels).reshape(3, per_epoch * batch_size)
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch)
    assert len({epoch.tobytes() for epoch in epochs}) == 3
    if len(epochs[0]) < SIZE:  # epochs omit different ones
        assert len({frozenset(epoch.tolist()) for epoch in epochs}) > 1


def test_an_example_looks_different_every_time():
    seen = [
        image.tobytes()
        for images, labels in batches(22, batch_size=11)
        for image in images[labels == 3]
    ]
    assert len(set(seen)) == len(seen) == 11


def test_neighbouring_seeds_share_nothing():
    orders = {
        seed: [labels.tobytes() for _, labels in batches(12, seed=seed, batch_size=11)]
        for seed in (0, 1)
    }
    assert not set(orders[0]) & set(orders[1])
    assert_same(batches(2, seed=2**40), batches(2, seed=2**40))


@pytest.mark.slow
@given(st.integers(0, 30), st.sampled_from([1, 2, 4, 8]), st.booleans())
@settings(max_examples=15, deadline=None)
def test_any_batch_is_a_function_of_its_number(start, num_shards, jitter):
    whole = batches(start + 2, jitter=jitter)[start:]
    options = {"start_step": start, "num_shards": num_shards, "jitter": jitter}
    shards = [batches(2, shard=shard, **options) for shard in range(num_shards)]
    joined = [
        tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        for parts in zip(*shards, strict=True)
    ]
    assert_same(joined, whole)


def test_a_batch_of_many_parts_is_in_order():
    source = Images()
    large = batches(1, source, batch_size=22, jitter=False)  # two parts of eleven
    small = batches(22, source, batch_size=1, jitter=False)
    joined = tuple(np.concatenate(arrays) for arrays in zip(*small, strict=True))
    assert_same(large, [joined])


@pytest.mark.by_default(workers=(2,))
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    options = {"start_step": 3, "shard": 1, "num_shards": 2}
    assert_same(batches(5, workers=workers, **options), batches(5, **options))


@pytest.mark.parametrize("batch_size", [1, 4, 8, 22, 50])
def test_evaluation_sees_every_example_once_and_in_order(batch_size):
    source = Images()
    seen = evaluation(batch_size=batch_size)
    assert {images.shape for images, _, _ in seen} == {(batch_size, SIDE, SIDE, 3)}
    images, labels, real = (
        np.concatenate(arrays) for arrays in zip(*seen, strict=True)
    )
    assert labels.dtype == np.int32 and real.dtype == bool
    np.testing.assert_array_equal(real, np.arange(len(real)) < SIZE)
    np.testing.assert_array_equal(labels[real], source.labels)
    for index, image in enumerate(images[real]):
        decoded = Image.open(io.BytesIO(source[index]))
        np.testing.assert_array_equal(
            image, resize_and_crop(decoded, 14, SIDE, "bilinear")
        )


@pytest.mark.by_default(workers=(0,))
@pytest.mark.parametrize(("num_shards", "workers"), [(2, 0), (4, 0), (2, 2)])
def test_shards_of_an_evaluation_are_alike_and_sum_to_the_whole(num_shards, workers):
    options = {"num_shards": num_shards, "workers": workers}
    shards = [evaluation(shard=shard, **options) for shard in range(num_shards)]
    assert {len(shard) for shard in shards} == {3}
    joined = [
        tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        for parts in zip(*shards, strict=True)
    ]
    assert_same(joined, evaluation())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_ends_training_with_its_name(workers):
    with pytest.raises(UserError, match=r"^image 7 cannot be read as an image \("):
        batches(3, Images(damaged=[7]), workers=workers)
    assert_nobody_is_left()


def test_a_batch_larger_than_the_set_is_explained():
    with pytest.raises(UserError, match="at most the number of training images, 22"):
        batches(1, batch_size=23)


@pytest.mark.parametrize("make", [batches, evaluation])
def test_a_batch_that_cannot_be_shared_is_explained(make):
    with pytest.raises(UserError, match="multiple of the 3 processes"):
        make(**({"count": 1} if make is batches else {}), num_shards=3)


def assert_nobody_is_left():
    assert multiprocessing.active_children() == []
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if "ThreadPool" in name or "Queue" in name]


@pytest.mark.parametrize("workers", [0, 2])
def test_nobody_is_left_when_training_ends_or_breaks_off(workers):
    options = {"seed": 0, "batch_size": 8, "image_size": SIDE, "jitter": False}
    options["interpolation"] = "bilinear"
    stream = train_batches(Images(), **options, start_step=0, workers=workers)
    with pytest.raises(ZeroDivisionError), stream:
        next(stream)
        raise ZeroDivisionError
    assert_nobody_is_left()
    assert list(stream) == []
    stream.close()  # may be repeated


def test_nobody_is_left_when_an_evaluation_is_over():
    evaluation(workers=1)
    assert_nobody_is_left()


PARENT = """
import os, signal, sys
import jax
import test_stream

jax.numpy.ones(3).block_until_ready()  # JAX's threads are running
source = test_stream.Images()
# ImageNet has such an image: its EXIF is broken off.
exif = b"Exif\\0\\0MM\\0*\\0\\0\\0\\x08"
jpeg = test_stream.encode(test_stream.noise(20, 20), "JPEG")
rest = jpeg[4 + int.from_bytes(jpeg[4:6], "big"):]
length = (len(exif) + 2).to_bytes(2, "big")
source.encoded[3] = jpeg[:2] + b"\\xff\\xe1" + length + exif + rest
stream = test_stream.train_batches(
    source, seed=0, batch_size=8, image_size=12,
    interpolation="bilinear", jitter=False, start_step=0, workers=2
)
next(stream)
workers = test_stream.multiprocessing.active_children()
print(*(worker.pid for worker in workers), flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
while any(os.getpgid(worker.pid) != worker.pid for worker in workers):
    pass  # one is still starting
# The parent outlives these, and finishes what it is doing.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.killpg(0, signal.SIGTERM)
try:
    os.killpg(0, signal.SIGINT)
except KeyboardInterrupt:
    pass
for _ in range(4):
    next(stream)
"""


def run_parent(how):
    """Runs a process with two workers; also returns the workers' ids."""
    root = Path(__file__).parents[1]
    paths = [str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PARENT, how],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        start_new_session=True,
    )
    return done, [int(word) for word in done.stdout.split()]


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(processes):
    deadline = time.monotonic() + 20
    while any(alive(process) for process in processes):
        assert time.monotonic() < deadline, f"still there: {processes}"
        time.sleep(0.05)


@pytest.mark.slow
def test_workers_obey_their_parent_alone_and_leave_without_a_word():
    done, workers = run_parent("signalled")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(workers) == 2
    wait_until_gone(workers)


def test_workers_die_with_their_parent():
    done, workers = run_parent("killed")
    assert done.returncode == -signal.SIGKILL and len(workers) == 2
    wait_until_gone(workers)


@pytest.mark.parametrize("package", ["grain", "PIL"])
def test_a_missing_package_is_explained(monkeypatch, package):
    source = Images()
    monkeypatch.setitem(sys.modules, package, None)
    import_pillow.cache_clear()
    with pytest.raises(UserError, match=r"pip install -e '\.\[experiments,data\]'"):
        batches(1, source)
    import_pillow.cache_clear()
