"""Places-LT: images of Places365 that three lists select."""

from pathlib import Path

import numpy as np

from experiments.data.dataset import Source
from experiments.data.sources.files import Splits, Subset
from experiments.data.sources.lists import read_list
from experiments.data.sources.tfds_folder import PLACES_FOLDER, PLACES_LISTS
from experiments.data.sources.tfds_records import PreparedSet
from experiments.errors import UserError


def places_lt(data_dir: Path, data: str) -> Splits:
    """Reads Places-LT: 62,500 training images; per class 20 validation and 100 test.

    TFDS's ``places365_small`` has the images. The lists have lines ``path label``. Two
    forms of paths exist, from the two archives of Places365: by first letter,
    ``data_256/a/arena/hockey/00000001.jpg`` and ``val_256/Places365_val_00000001.jpg``
    as in TFDS, or by class, ``train/arena-hockey/00000001.jpg`` and
    ``val/arena-hockey/Places365_val_00000001.jpg``. Both are accepted: only the class
    and the file name are compared.

    Raises:
      UserError: if a list is missing, or names an image that TFDS does not have.

    References:
      Liu et al., `Large-Scale Long-Tailed Recognition in an Open World
      <https://arxiv.org/abs/1904.05160>`_, CVPR 2019
    """
    folder = data_dir / PLACES_FOLDER
    missing = [name for name in PLACES_LISTS if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} not found in {folder}: the lists that select "
            "Places-LT from Places365 come with the data of OpenLongTailRecognition "
            "(Liu et al., 2019); copy them there."
        )
    prepared = PreparedSet(data_dir, data)
    train_images, train_files = prepared.open("train", key="filename")
    test_images, test_files = prepared.open("validation", key="filename")
    train_list, validation_list, test_list = (folder / name for name in PLACES_LISTS)
    train, validation, test = (
        _choose(train_images, train_files, train_list),
        _choose(train_images, train_files, validation_list),
        _choose(test_images, test_files, test_list),
    )
    # The lists give the class numbers, TFDS the class names.
    names = prepared.class_names(train_images.labels)
    of_class = dict(zip(train.labels, train_images.labels[train.indices], strict=True))
    classes = range(train.labels.max() + 1)
    class_names = tuple(
        names[of_class[c]] if c in of_class else str(c) for c in classes
    )
    return Splits(train, validation, test, class_names)


def _choose(images: Source, files: np.ndarray, list_file: Path) -> Subset:
    """Returns the images that a list names, in its order, with its labels."""
    paths, labels = read_list(list_file)
    wanted = [_image(path) for path in paths]
    found = dict.fromkeys(wanted)
    for index, file in enumerate(files):
        image = _image(file.decode())
        if image in found:
            found[image] = index
    for path, image in zip(paths, wanted, strict=True):
        if found[image] is None:
            raise UserError(
                f"{list_file} names {path}, which is not among the images that TFDS "
                "prepared as places365_small."
            )
    indices = np.array([found[image] for image in wanted])
    return Subset(images, indices, np.array(labels, np.int32))


def _image(path: str) -> str:
    """Returns class and file name for either form of path; of a validation image, only
    the file name."""
    *folders, file = path.split("/")
    if file.startswith("Places365_val_"):
        return file
    letters = [place for place, folder in enumerate(folders) if len(folder) == 1]
    of_class = folders[letters[-1] + 1 :] if letters else folders[-1:]
    return "-".join(of_class) + "/" + file
