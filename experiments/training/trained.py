"""A trained network, and its class probabilities of images."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments import devices
from experiments.config import Config
from experiments.data.dataset import Source
from experiments.data.feed import whole_split
from experiments.data.memory import in_memory
from experiments.data.sources.files import ImageFiles, Subset
from experiments.errors import UserError
from experiments.models import make_model
from experiments.records.manifest import config_of, pixel_statistics, read_manifest
from experiments.training.checkpoint import last_network
from experiments.training.criterion import probabilities
from experiments.training.evaluate import eval_logits

# Images in memory at once, of a set that is not streamed.
_HELD = 2048


class Trained(NamedTuple):
    """The network of a run's newest checkpoint, in evaluation mode.

    Attributes:
      config: configuration of the run.
      class_names: names of the classes, in the order of the probabilities.
      class_counts: number of training images of each class.
      step: number of steps made.
      batches: maps a source to the probabilities of its images, in order, in batches.
    """

    config: Config
    class_names: tuple[str, ...]
    class_counts: np.ndarray
    step: int
    batches: Callable[[Source], Iterator[np.ndarray]]

    def __call__(self, images: Sequence[str | Path]) -> np.ndarray:
        """Computes the probability of every class.

        Args:
          images: image files of any size, at least one.

        Returns:
          float32, ``(len(images), num_classes)``.

        Raises:
          UserError: if a file cannot be read as an image.
        """
        return np.concatenate(list(self.batches(without_labels(images))))


def without_labels(images: Sequence[str | Path]) -> ImageFiles:
    """Makes a source of files; its labels have no meaning."""
    return ImageFiles(Path(), [str(path) for path in images], [0] * len(images))


def load_run(run_dir: str | Path) -> Trained:
    """Loads the network of a run, with its averaged weights if it has some.

    Args:
      run_dir: folder of a run of ``experiments.train``.

    Raises:
      UserError: if the run has no checkpoint, or was not trained on image files.
    """
    run_dir = Path(run_dir)
    manifest = read_manifest(run_dir)
    config, names = config_of(manifest), tuple(manifest["class_names"])
    mean, std = (x.astype(np.float32) for x in pixel_statistics(manifest))
    if len(mean) != 3:
        raise UserError(
            f"{run_dir} was trained on {config.data}, arrays of numbers, and cannot "
            "classify image files."
        )
    step, *network = last_network(run_dir)
    model = make_model(config, len(names), channels=3)
    mesh = devices.device_mesh()
    whole = devices.replicated(mesh)
    network, frozen = jax.device_put((tuple(network), model.frozen), whole)

    @jax.jit
    def ask(network, frozen, images):
        logits = eval_logits(config, model, network, frozen, images, mean, std)
        return probabilities(config, logits)

    def batches(source):
        for part in _parts(source, config):
            for images, _, real in whole_split(config, part, mesh):
                yield np.asarray(ask(network, frozen, images))[np.asarray(real)]

    counts = np.array(manifest["class_counts"])
    return Trained(config, names, counts, step, batches)


def _parts(source: Source, config: Config):
    """Yields the source in parts that fit into memory, or whole if streamed."""
    if not config.in_memory:
        yield source
        return
    for start in range(0, len(source), _HELD):
        indices = np.arange(start, min(start + _HELD, len(source)))
        yield in_memory(
            Subset(source, indices), config.image_size, config.interpolation
        )
