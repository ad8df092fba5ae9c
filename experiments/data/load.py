"""Loading of the data set of a configuration."""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from experiments.config import OWN_DATA, Config
from experiments.data.dataset import Dataset, Source, Split
from experiments.data.images.decode import image_size
from experiments.data.longtail import TAILS, hold_out, published_subset
from experiments.data.memory import in_memory
from experiments.data.sources import digits
from experiments.data.sources.files import Splits, Subset, hash_of, some_of, spread_over
from experiments.data.sources.folder import from_folder
from experiments.data.sources.idx import fashion_mnist, from_idx, has_idx
from experiments.data.sources.lists import from_lists
from experiments.data.sources.suspicious import suspicious_files
from experiments.data.sources.tfds_folder import TFDS_NAMES
from experiments.data.sources.unreadable import without_unreadable
from experiments.errors import UserError

# Mean and standard deviation of the pixels, in [0, 255], of CLIP's training images.
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32) * 255
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32) * 255

# Number of images that are opened to find their size.
_LOOKS = 200
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]+:/")


def load_dataset(
    config: Config, data_dir: Path, *, tell: Callable[[str], None] | None = None
) -> Dataset:
    """Loads the data set of a configuration, subsampled to its class imbalance.

    Classes keep the order of the data; only those of Digits-LT are sorted by frequency.

    Args:
      config: configuration with ``data``, ``imbalance`` and so on.
      data_dir: folder of data sets, in the layout of TFDS.
      tell: function that is called with progress messages. If it is given, the user's
        own files are inspected, and ``notes`` report copies and dark images.

    Returns:
      The data set, in memory if ``config.in_memory``.

    Raises:
      UserError: if the data are missing, damaged or do not suit the configuration.
    """
    dataset = _load(config, data_dir, tell)
    return _as_clip_sees(dataset) if config.model == "clip" else dataset


def look_at(config: Config, data_dir: Path) -> tuple[list[int], int]:
    """Returns class counts, and the median shorter side of a sample of the images.

    Raises:
      UserError: if the data are missing or damaged.
    """
    splits = _read(config, data_dir)
    _check_labels(splits, config)
    train, sizes = splits.train, []
    for i in spread_over(train, _LOOKS):
        with suppress(UserError):  # Unreadable images are reported later.
            sizes.append(min(image_size(train[i], train.name(i))))
    if not sizes:
        raise UserError(f"no image of --data {config.data} can be read.")
    return np.bincount(train.labels).tolist(), int(np.median(sizes))


def _load(
    config: Config, data_dir: Path, tell: Callable[[str], None] | None
) -> Dataset:
    own_files = config.data.startswith(("folder:", "lists:"))
    if config.skip_unreadable and not own_files:
        raise UserError(
            f"--skip-unreadable is for files of your own, not for --data {config.data}."
        )
    if config.data == "digits":
        return _load_digits(config)
    splits = _read(config, data_dir)
    if own_files and (tell or config.skip_unreadable):
        splits = without_unreadable(
            splits, skip=config.skip_unreadable, tell=tell or (lambda text: None)
        )
    _check_labels(splits, config)
    train, validation = _set_aside(splits.train, splits.validation, config)
    train = _cut_tail(train, splits.class_names, config)
    classes = len(splits.class_names)
    counts = np.bincount(train.labels, minlength=classes)
    test = splits.test
    notes = splits.notes + _untested(test.labels, splits.class_names)
    if tell and own_files:
        notes += suspicious_files([train, *filter(None, (validation,)), test])
    train_hash = hash_of(train)
    if config.in_memory:
        size, interpolation = config.image_size, config.interpolation
        train, test = (in_memory(s, size, interpolation) for s in (train, test))
        if validation is not None:
            validation = in_memory(validation, size, interpolation)
    return Dataset(
        train,
        validation,
        test,
        counts,
        splits.class_names,
        splits.mean,
        splits.std,
        notes,
        train_hash,
    )


def _untested(labels: np.ndarray, class_names: tuple[str, ...]) -> tuple[str, ...]:
    missing = np.flatnonzero(np.bincount(labels, minlength=len(class_names)) == 0)
    if not len(missing):
        return ()
    have = "1 class has" if len(missing) == 1 else f"{len(missing)} classes have"
    names = some_of([class_names[c] for c in missing])
    return (f"{have} no test image, so no accuracy: {names}.",)


def _load_digits(config: Config) -> Dataset:
    if config.image_size != digits.IMAGE_SIZE:
        raise UserError(
            f"The images of digits are {digits.IMAGE_SIZE} pixels wide and high: "
            f"--image-size must be {digits.IMAGE_SIZE}, got {config.image_size}."
        )
    _refuse_held_out(config)
    return digits.load(config.subset_seed, config.imbalance_factor, config.imbalance)


def _read(config: Config, data_dir: Path) -> Splits:
    """Reads the splits, before subsampling and before a held-out split is drawn."""
    kind, _, name = config.data.partition(":")
    for place in (str(data_dir), name):
        # Path turns the two slashes of a URL into one.
        if _REMOTE.match(place):
            raise UserError(
                f"{place} is remote, but only local folders can be read: copy or mount "
                "it, and pass that folder."
            )
    if f"{kind}:" in OWN_DATA and not name:
        raise UserError(f"--data {kind}: needs a path or a name after the colon.")
    if kind == "folder":
        return from_folder(Path(name).expanduser(), config.subset_seed)
    if kind == "lists":
        return from_lists(Path(name).expanduser())
    if kind == "idx":
        return from_idx(Path(name).expanduser())
    if config.data == "fashion_mnist" and has_idx(data_dir / config.data):
        return fashion_mnist(data_dir / config.data)
    if kind != "tfds" and config.data not in TFDS_NAMES:
        raise UserError(
            f"--data must be digits, {', '.join(TFDS_NAMES)}, folder:PATH, lists:PATH, "
            f"idx:PATH or tfds:NAME, got {config.data!r}."
        )
    try:
        # TFDS takes seconds to import and may not be installed.
        from experiments.data.sources import places, tfds_sets

        readers = {
            "fashion_mnist": tfds_sets.fashion_mnist,
            "cifar10": tfds_sets.cifar,
            "cifar100": tfds_sets.cifar,
            "imagenet_lt": tfds_sets.any_tfds,
            "inaturalist18": tfds_sets.inaturalist18,
            "places_lt": places.places_lt,
        }
        if kind == "tfds":
            return tfds_sets.any_tfds(data_dir, config.data)
        return readers[config.data](data_dir, config.data)
    except ModuleNotFoundError as error:
        raise UserError(
            f"--data {config.data} needs the package {error.name}: "
            "pip install -e '.[experiments,data]'."
        ) from error


def _check_labels(splits: Splits, config: Config) -> None:
    """Checks that labels lie in 0 to C - 1 and each class has a training image."""
    classes = len(splits.class_names)
    if classes < 2:
        raise UserError(
            f"--data {config.data} needs at least 2 classes, got {classes}."
        )
    for name in ("train", "validation", "test"):
        split = getattr(splits, name)
        if split is None:
            continue
        if not len(split.labels):
            raise UserError(f"The {name} split of --data {config.data} has no image.")
        if wrong := set(split.labels.tolist()) - set(range(classes)):
            raise UserError(
                f"The {name} split of --data {config.data} has images of class "
                f"{min(wrong)}; the training images have classes 0 to {classes - 1}."
            )
    counts = np.bincount(splits.train.labels, minlength=classes)
    if not counts.all():
        empty = int(np.argmin(counts))
        raise UserError(
            f"Class {empty} ({splits.class_names[empty]}) of --data {config.data} has "
            f"no training image; every class from 0 to {classes - 1} needs at least "
            "one."
        )


def _cut_tail(train: Source, class_names: tuple[str, ...], config: Config) -> Source:
    """Subsamples the training split to the class counts of ``config.imbalance``."""
    if config.imbalance == "natural":
        return train
    available = np.bincount(train.labels, minlength=len(class_names))
    counts = TAILS[config.imbalance](
        len(available), int(available.max()), config.imbalance_factor
    )
    if np.any(available < counts):
        short = int(np.argmax(available < counts))
        raise UserError(
            f"--imbalance {config.imbalance} with --imbalance-factor "
            f"{config.imbalance_factor:g} needs {counts[short]} images of class "
            f"{short} ({class_names[short]}), which has {available[short]}: for data "
            "that are already long-tailed, pass --imbalance natural."
        )
    chosen = published_subset(train.labels, counts, config.subset_seed)
    return Subset(train, chosen)


def _set_aside(
    train: Source, validation: Source | None, config: Config
) -> tuple[Source, Source | None]:
    """Returns the training and validation splits, before the tail is cut.

    So a held-out validation split has the class balance of the original data.
    """
    if validation is not None:
        _refuse_held_out(config)
    if config.held_out == 0:
        return train, validation
    rng = np.random.default_rng(config.subset_seed)
    stays, aside = hold_out(train.labels, config.held_out, rng)
    if not len(aside):
        raise UserError(
            "--held-out cannot hold out any image: every class has only one."
        )
    return Subset(train, stays), Subset(train, aside)


def _refuse_held_out(config: Config) -> None:
    if config.held_out > 0:
        raise UserError(
            f"--data {config.data} has its own validation split: --held-out must be 0, "
            f"got {config.held_out:g}."
        )


def _as_clip_sees(dataset: Dataset) -> Dataset:
    """Returns the data set with CLIP's normalisation and with three colour channels.

    Only the digits are grey; their pixels are scaled from [0, 16] to [0, 255].
    """
    grey = len(dataset.mean) == 1
    splits = {
        name: _in_colour(part)
        for name in ("train", "validation", "test")
        if grey and isinstance(part := getattr(dataset, name), Split)
    }
    return dataset._replace(mean=CLIP_MEAN, std=CLIP_STD, **splits)


def _in_colour(split: Split) -> Split:
    pixels = np.round(split.images * (255 / 16)).astype(np.uint8)
    return split._replace(images=np.repeat(pixels, 3, axis=-1))
