"""A network once trained, and what it believes of images."""

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

# Of a set that is not streamed, so many images are held at once.
_HELD = 2048


class Trained(NamedTuple):
    """The network of a run's newest checkpoint, as it is evaluated.

    Attributes:
      config: of the run.
      class_names: in the order of the probabilities.
      class_counts: training images of each class.
      step: updates that made it.
      batches: from a source to the probabilities of its images, in order, in arrays of
        some images each.
    """

    config: Config
    class_names: tuple[str, ...]
    class_counts: np.ndarray
    step: int
    batches: Callable[[Source], Iterator[np.ndarray]]

    def __call__(self, images: Sequence[str | Path]) -> np.ndarray:
        """The probability of every class.

        Args:
          images: files, of any size; at least one.

        Returns:
          float32, ``(len(images), num_classes)``.

        Raises:
          UserError: if a file cannot be read as an image.
        """
        return np.concatenate(list(self.batches(without_labels(images))))


def without_labels(images: Sequence[str | Path]) -> ImageFiles:
    """Files as a source whose labels say nothing."""
    return ImageFiles(Path(), [str(path) for path in images], [0] * len(images))


def load_run(run_dir: str | Path) -> Trained:
    """The network of a run, ready to be asked; its averaged weights if it has some.

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
            f"{run_dir} was trained on {config.data}, which are arrays of numbers, and "
            "image files are nothing to it."
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
    """The source in parts that fit into memory; as it is where it is streamed."""
    if not config.in_memory:
        yield source
        return
    for start in range(0, len(source), _HELD):
        indices = np.arange(start, min(start + _HELD, len(source)))
        yield in_memory(
            Subset(source, indices), config.image_size, config.interpolation
        )
