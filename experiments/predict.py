"""Predictions of a trained network: ``python -m experiments.predict --help``."""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress

from experiments.cli import prepare_jax
from experiments.data.sources.files import counted, some_of
from experiments.data.sources.folder import images_below, readable
from experiments.data.sources.unreadable import find_unreadable
from experiments.ending import exit_with
from experiments.errors import UserError
from experiments.figures import run as figures
from experiments.progress import result_table
from experiments.records.folders import check_new_file
from experiments.terminal import attempt, make_console
from experiments.training.evaluate import group_accuracies, shots
from experiments.training.trained import Trained, load_run, without_labels


@dataclass(frozen=True)
class Job:
    """Writes the predicted class of every image, and its probability, as CSV.

    A folder stands for all images below it. Files that cannot be read are named and
    left out. If all images are in folders with the names of classes, the accuracy is
    printed too, and the confusion matrix is drawn beside the CSV file.
    """

    run_dir: Annotated[
        tyro.conf.Positional[Path],
        tyro.conf.arg(metavar="RUN_DIR", help="folder of a run of experiments.train"),
    ]
    images: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="FILE_OR_FOLDER ...", help="images, or folders of them"),
    ]
    out: Annotated[Path, tyro.conf.arg(help="new CSV file")] = Path("predictions.csv")
    probabilities: Annotated[
        bool, tyro.conf.arg(help="add a column for the probability of every class")
    ] = False


def run(job: Job, console: Console) -> None:
    """Reads images, predicts and writes."""
    paths, classes, left_out = _find(job.images)
    trained = load_run(job.run_dir)
    check_new_file(job.out)
    matrix = job.out.with_name(f"{job.out.stem}_confusion_matrix.png")
    check_new_file(matrix)
    if unreadable := find_unreadable([str(path) for path in paths]):
        names = [str(paths[index]) for index in unreadable]
        console.print(
            f"{len(names)} of {len(paths)} files cannot be read as images and are left "
            f"out: {some_of(names)}.",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )
        for index in reversed(unreadable):
            del paths[index], classes[index]
        if not paths:
            raise UserError(f"{some_of(names)} cannot be read as an image.")
    found = []
    with Progress(console=console) as progress:
        task = progress.add_task("compiling", total=len(paths))
        for batch in trained.batches(without_labels(paths)):
            found.append(batch)
            progress.update(task, advance=len(batch), description="predicting")
    of_images = np.concatenate(found)
    _write(job.out, paths, of_images, trained.class_names, job.probabilities)
    if left_out:
        console.print(f"{counted(left_out, 'other file')} left out.")
    if set(classes) <= set(trained.class_names):
        _judge(trained, classes, of_images.argmax(1), matrix, console)
    console.print(f"{len(paths)} predictions are in {job.out}.", markup=False)


def _find(places: tuple[Path, ...]) -> tuple[list[Path], list[str], int]:
    """Returns the images, their class folders, and the number of files left out.

    A class folder is the given folder itself or directly below it; for a given file it
    is "".
    """
    paths, folders, left_out = [], [], 0
    for place in places:
        if place.is_dir():
            images, others = images_below(place)
            paths += [place / image for image in images]
            left_out += len(others)
            folders += [_class_folder(image, place) for image in images]
        elif place.is_file():
            paths.append(place)
            folders.append("")
        else:
            raise UserError(f"{place} is neither a file nor a folder.")
    if not paths:
        raise UserError(
            f"there are no images in {some_of([str(place) for place in places])}."
            if places
            else "which images? Name files or folders after the run folder."
        )
    return paths, folders, left_out


def _class_folder(image: str, place: Path) -> str:
    """Returns the first folder of a path below ``place``, or ``place``'s name."""
    folder, _, rest = image.partition("/")
    return readable(folder if rest else place.resolve().name)


def _write(out, paths, of_images, class_names, in_full) -> None:
    header = ["file", "predicted", "probability"]
    header += [f"probability of {name}" for name in class_names] if in_full else []
    unfinished = out.with_name(out.name + ".tmp")
    with unfinished.open(
        "w", newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for path, row in zip(paths, of_images, strict=True):
            best = row.argmax()
            cells = [path, class_names[best], f"{row[best]:.6g}"]
            writer.writerow(cells + ([f"{p:.6g}" for p in row] if in_full else []))
    unfinished.replace(out)


def _judge(
    trained: Trained,
    classes: list[str],
    answers: np.ndarray,
    matrix: Path,
    console: Console,
) -> None:
    label_of = {name: label for label, name in enumerate(trained.class_names)}
    labels = np.array([label_of[name] for name in classes])
    counts, config = trained.class_counts, trained.config
    confusion = np.zeros((len(counts), len(counts)), int)
    np.add.at(confusion, (labels, answers), 1)
    result = group_accuracies(confusion, counts, config)
    title = f"Accuracy on {len(labels)} images"
    console.print(result_table({"predicted": result}, counts, config, title))
    if len(counts) <= figures.LARGEST_MATRIX:
        groups, title = shots(counts, config), f"{len(labels)} images"
        names = trained.class_names

        def draw() -> None:
            figures.confusion_matrix(matrix, confusion, counts, names, groups, title)
            console.print(f"The confusion matrix is in {matrix}.", markup=False)

        attempt(draw, console)


def main() -> None:
    """Runs the command."""
    job = tyro.cli(Job, prog="python -m experiments.predict", args=sys.argv[1:])
    prepare_jax()
    run(job, make_console())


if __name__ == "__main__":
    exit_with(main)
