"""Trained weights for other programs: ``python -m experiments.export --help``."""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from experiments.cli import prepare_jax
from experiments.config import OF_PHOTOGRAPHS, RESNETS, Config
from experiments.ending import exit_with
from experiments.errors import UserError, import_package
from experiments.models import (
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    bottleneck,
    check_mergeable,
    is_of_head,
    make_model,
    merged,
    open_clip,
    save_safetensors,
    to_pytorch,
    write_folder,
    write_tree,
)
from experiments.records.folders import make_folder
from experiments.records.manifest import (
    config_of,
    pixel_statistics,
    read_manifest,
    write_json,
)
from experiments.terminal import make_console
from experiments.training.checkpoint import last_network
from experiments.training.criterion import softmax_scale

TUNED, HEAD = "tuned.safetensors", "head.safetensors"
# timm's names of networks, where they differ.
_TIMM = {"resnext50": "resnext50_32x4d"}


@dataclass(frozen=True)
class Job:
    """Writes the last checkpoint of a ResNet or CLIP run as safetensors.

    A ResNet-50 or ResNeXt-50 is written for torchvision and timm, with a config.json
    that tells timm its classes and the preprocessing of images. Smaller ResNets have
    the parameter names of the published Focal-SAM code. A CLIP model is written whole,
    in Hugging Face's format, with its tuned parts merged. Last layers that these
    programs lack, CLIP's and cosine ones, are written to head.safetensors. With
    --separate, only what was trained in CLIP is written, in tuned.safetensors.
    """

    run_dir: Annotated[
        tyro.conf.Positional[Path], tyro.conf.arg(help="folder of the run")
    ]
    out: Annotated[Path, tyro.conf.arg(help="new folder for the weights")] = Path(
        "exported"
    )
    separate: Annotated[
        bool, tyro.conf.arg(help="CLIP: only the trained weights, for any tuner")
    ] = False


def run(job: Job, console: Console) -> None:
    """Reads, converts and writes."""
    manifest = read_manifest(job.run_dir)
    config = config_of(manifest)
    is_clip = config.model == "clip"
    if config.model not in ("clip", *RESNETS):
        raise UserError(
            f"{job.run_dir} is a run of --model {config.model}, which no other program "
            f"reads: only clip, {', '.join(RESNETS)} can be exported."
        )
    if job.separate and not is_clip:
        raise UserError(
            f"--separate is for CLIP, but {job.run_dir} is a run of --model "
            f"{config.model}: leave it out."
        )
    if job.out.exists():
        raise UserError(f"{job.out} already exists: name a new folder with --out.")
    import_package("safetensors", "Writing weights", "clip")
    if is_clip and not job.separate:
        check_mergeable(config.tuners)
    step, params, batch_stats = last_network(job.run_dir)
    about = {
        "weights": config.weights if is_clip else config.model,
        "tuners": config.tuners,
        "head": config.head,
        "head_scale": config.head_scale,
        "softmax_scale": softmax_scale(config),
        "class_names": manifest["class_names"],
        "step": step,
    }
    if not is_clip:
        _write_resnet(job.out, config, manifest, (params, batch_stats), about)
    elif job.separate:
        make_folder(job.out, "--out")
        write_tree(job.out / TUNED, params, about)
    else:
        _write_merged(job.out, config, params, about)
    console.print(f"The weights after step {step} are in {job.out}.", markup=False)
    if not is_clip and config.model not in OF_PHOTOGRAPHS:
        console.print(
            f"timm and torchvision have no {config.model}. In PyTorch, "
            "experiments/benchmark/torch/resnet.py is the same network, and has the "
            "same parameter names.",
            markup=False,
        )


def _write_resnet(
    out: Path,
    config: Config,
    manifest: dict[str, Any],
    network: tuple[Any, Any],
    about: dict[str, Any],
) -> None:
    mean, std = pixel_statistics(manifest)
    head = "fc" if config.model in OF_PHOTOGRAPHS else "linear"
    arrays = to_pytorch(*network, head)
    has_head = config.head == "linear"
    make_folder(out, "--out")
    if not has_head:
        arrays = {n: array for n, array in arrays.items() if not is_of_head(n)}
        write_tree(out / HEAD, network[0]["head"], about)
    about = {name: json.dumps(value) for name, value in about.items()}
    save_safetensors(out / WEIGHTS, arrays, {"format": "pt", **about})
    size, names = config.network_size, list(manifest["class_names"])
    # In timm's format.
    write_json(
        out / CONFIG,
        {
            "architecture": _TIMM.get(config.model, config.model),
            "num_classes": len(names) if has_head else 0,
            "label_names": names,
            "pretrained_cfg": {
                "num_classes": len(names) if has_head else 0,
                "input_size": [3, size, size],
                "mean": (mean / 255).round(6).tolist(),
                "std": (std / 255).round(6).tolist(),
                "interpolation": config.interpolation,
                "crop_pct": size / config.eval_resize,
                "first_conv": "conv1",
                "classifier": head,
            },
        },
    )


def _write_merged(out: Path, config: Any, params: Any, about: dict[str, Any]) -> None:
    num_classes = len(about["class_names"])
    clip = open_clip(config.weights)
    text = clip.text()
    if text is None:
        raise UserError(
            f"--weights {config.weights} of the run has no text tower, which a whole "
            "model needs: use --separate."
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
    make_folder(out, "--out")
    write_folder(out, clip.architecture, weights)
    write_tree(out / HEAD, params["head"], about)
    if (clip.folder / TOKENIZER).exists():
        shutil.copy(clip.folder / TOKENIZER, out / TOKENIZER)


def main() -> None:
    """Runs the command."""
    job = tyro.cli(Job, prog="python -m experiments.export", args=sys.argv[1:])
    prepare_jax()
    run(job, make_console())


if __name__ == "__main__":
    exit_with(main)
