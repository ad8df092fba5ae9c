"""Tuned CLIP weights for other programs: ``python -m experiments.export --help``."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from experiments.cli import exit_with
from experiments.errors import UserError
from experiments.models import (
    bottleneck,
    check_mergeable,
    make_model,
    merged,
    open_clip,
    write_folder,
    write_tree,
)
from experiments.records.manifest import config_of, read_manifest
from experiments.training.checkpoint import last_network

TUNED, HEAD, TOKENIZER = "tuned.safetensors", "head.safetensors", "tokenizer.json"


@dataclass(frozen=True)
class Job:
    """Writes the last checkpoint of a CLIP run as safetensors.

    By default a whole CLIP model as Hugging Face saves it, with what was tuned merged
    into it, and the last layer beside it in head.safetensors. With --separate only what
    was trained, in tuned.safetensors.
    """

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(help="of the run")]
    out: Annotated[Path, tyro.conf.arg(help="a new folder")]
    separate: Annotated[
        bool, tyro.conf.arg(help="only what was trained, whatever tuned it")
    ] = False


def run(job: Job, console: Console) -> None:
    """Reads, merges and writes."""
    manifest = read_manifest(job.run_dir)
    config = config_of(manifest)
    if config.model != "clip":
        raise UserError(
            f"{job.run_dir} is a run of --model {config.model}, and only CLIP's "
            "weights are exported."
        )
    if job.out.exists():
        raise UserError(f"--out {job.out} is there already: name a new folder.")
    if not job.separate:
        check_mergeable(config.tuners)
    step, params, _ = last_network(job.run_dir)
    about = {
        "weights": config.weights,
        "tuners": config.tuners,
        "head": config.head,
        "head_scale": config.head_scale,
        "class_names": manifest["class_names"],
        "step": step,
    }
    if job.separate:
        job.out.mkdir(parents=True)
        write_tree(job.out / TUNED, params, about)
    else:
        _write_merged(job.out, config, params, about)
    console.print(f"The weights after step {step} are in {job.out}.")


def _write_merged(out: Path, config: Any, params: Any, about: dict[str, Any]) -> None:
    num_classes = len(about["class_names"])
    clip = open_clip(config.weights)
    text = clip.text()
    if text is None:
        raise UserError(
            f"--weights {config.weights} of the run has no text tower, without which "
            "no whole model can be written: use --separate."
        )
    sizes = clip.architecture.vision
    # In float32, whatever the run computed in.
    model = make_model(config.replace(precision="float32"), num_classes, channels=3)
    vision = merged(
        sizes,
        config.tuners,
        bottleneck(num_classes, sizes.transformer.layers),
        model.frozen["vision"],
        params.get("vision", {}),
    )
    projection = clip.vision()["vision_projection"]
    weights = {"vision": vision, "vision_projection": projection, **text}
    out.mkdir(parents=True)
    write_folder(out, clip.architecture, weights)
    write_tree(out / HEAD, params["head"], about)
    if (clip.folder / TOKENIZER).exists():
        shutil.copy(clip.folder / TOKENIZER, out / TOKENIZER)


def main() -> None:
    """The command."""
    prog = "python -m experiments.export"
    run(tyro.cli(Job, prog=prog, args=sys.argv[1:]), Console())


if __name__ == "__main__":
    exit_with(main)
