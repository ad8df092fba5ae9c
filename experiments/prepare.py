"""Downloads data sets through TFDS: ``python -m experiments.prepare --help``."""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.data.sources.tfds_folder import (
    IMAGENET_ARCHIVES,
    PLACES_FOLDER,
    PLACES_LISTS,
    TFDS_NAMES,
    find_prepared,
    tfds_name,
)
from experiments.ending import exit_with
from experiments.errors import UserError

# TFDS needs the second one without declaring it.
_NEEDED = ("tensorflow_datasets", "importlib_resources", "array_record", "tensorflow")


@dataclass(frozen=True)
class Job:
    """Downloads data sets and writes them in a form that training reads fast."""

    names: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(
            metavar="NAME ...",
            help=f"{', '.join(TFDS_NAMES)}, or tfds:NAME for any data set of TFDS",
        ),
    ]
    data_dir: Annotated[Path, tyro.conf.arg(help="folder of data sets")] = Path("data")


def run(job: Job) -> None:
    """Prepares missing data sets."""
    for name in job.names:
        if name not in TFDS_NAMES and not name.startswith("tfds:"):
            raise UserError(
                f"NAME must be one of {', '.join(TFDS_NAMES)}, or tfds:NAME, got "
                f"{name!r}."
            )
    if not job.names:
        raise UserError(f"Pass one or more of {', '.join(TFDS_NAMES)} or tfds:NAME.")
    for name in job.names:
        if found := find_prepared(job.data_dir, name):
            print(f"{name} is already prepared in {found}.")
        else:
            _prepare(name, job.data_dir)
        if name == "places_lt":
            folder = job.data_dir / PLACES_FOLDER
            print(f"Training also needs {', '.join(PLACES_LISTS)} in {folder}.")


def _prepare(name: str, data_dir: Path) -> None:
    if name == "imagenet_lt":
        _check_imagenet_archives(data_dir)
    tfds = _import_tfds()
    import requests
    from tensorflow_datasets.core.download.download_manager import (
        NonMatchingChecksumError,
    )

    try:
        builder = tfds.builder(
            tfds_name(name), data_dir=data_dir, file_format="array_record"
        )
    except tfds.core.DatasetNotFoundError:
        raise UserError(f"TFDS has no data set called {tfds_name(name)}.") from None
    except (AssertionError, ValueError) as error:  # an unknown version or configuration
        reason = (str(error).splitlines() or ["no reason is given"])[0]
        raise UserError(f"TFDS cannot prepare {tfds_name(name)}: {reason}") from error
    print(
        f"Preparing {name} in {builder.data_dir}. If the network does not answer, TFDS "
        "retries for some minutes."
    )
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    except (requests.RequestException, tfds.download.DownloadError) as error:
        request = getattr(error, "request", None)
        address = request.url if request else str(error)
        raise UserError(
            f"{name} could not be downloaded ({address}): check the network and run "
            "this again; files that were downloaded in full are kept."
        ) from error
    except NonMatchingChecksumError as error:
        what = " ".join(str(error).split())
        raise UserError(
            f"the download of {name} is not what TFDS expects: remove the file and run "
            f"this again. TFDS says: {what}"
        ) from error
    print(f"{name} is prepared in {builder.data_dir}.")


def _import_tfds():
    """Returns TFDS, which needs TensorFlow to download and write."""
    for package in _NEEDED:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"Preparing data sets needs the package {package}: "
                "pip install -e '.[experiments,prepare]'. Training does not need "
                "TensorFlow."
            )
    import tensorflow_datasets

    return tensorflow_datasets


def _check_imagenet_archives(data_dir: Path) -> None:
    manual = data_dir / "downloads" / "manual"
    missing = [name for name in IMAGENET_ARCHIVES if not (manual / name).is_file()]
    if missing:
        raise UserError(
            f"imagenet_lt is made from ImageNet, which only you can download: put "
            f"{' and '.join(missing)} from image-net.org into {manual}."
        )


def main() -> None:
    """Runs the command."""
    run(tyro.cli(Job, prog="python -m experiments.prepare", args=sys.argv[1:]))


if __name__ == "__main__":
    exit_with(main)
