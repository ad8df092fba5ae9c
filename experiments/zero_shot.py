"""Zero-shot scores of CLIP: ``python -m experiments.zero_shot --help``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

import focal_sam_jax as fsam
from experiments import devices
from experiments.cli import (
    DataDir,
    Workers,
    arguments_of,
    prepare_jax,
)
from experiments.config import Config
from experiments.data.feed import whole_split
from experiments.data.load import load_dataset
from experiments.ending import exit_with
from experiments.errors import UserError
from experiments.models import (
    class_embeddings,
    fitting_clip,
    zero_shot_clip,
)
from experiments.progress import result_table
from experiments.records.folders import check_new_file
from experiments.records.manifest import write_json
from experiments.terminal import make_console
from experiments.training.evaluate import (
    EvalSums,
    add_batch,
    eval_logits,
    no_sums,
    scores,
)
from experiments.training.start import class_prompts


@dataclass(frozen=True)
class Job:
    """Evaluates CLIP on the test images with prompts made of the class names.

    --head-init text uses one prompt per class, text_ensemble the mean of eighty.
    """

    config: Config
    data_dir: DataDir = Path("data")
    out: Annotated[
        Path | None, tyro.conf.arg(help="JSON file for the scores; none: not written")
    ] = None
    workers: Workers = 0


def run(job: Job, console: Console) -> dict:
    """Scores, prints and records; returns the scores."""
    config = job.config
    if config.model != "clip":
        raise UserError(
            f"zero-shot scores need --model clip, got --model {config.model}."
        )
    if job.out is not None:
        check_new_file(job.out)
    clip = fitting_clip(config)
    dataset = load_dataset(config, job.data_dir)
    classes = class_embeddings(clip, class_prompts(config, dataset))
    weights = clip.vision()
    assert weights is not None
    model = zero_shot_clip(
        clip.architecture.vision, weights, classes, jnp.dtype(config.precision)
    )
    mesh = devices.device_mesh()

    @jax.jit
    def eval_step(sums, frozen, images, labels, real):
        logits = eval_logits(
            config, model, ({}, {}), frozen, images, dataset.mean, dataset.std
        )
        losses = fsam.losses.cross_entropy(logits, labels)
        return add_batch(sums, jax.nn.softmax(logits), losses, labels, real)

    whole = devices.replicated(mesh)
    sums = jax.device_put(no_sums(len(classes)), whole)
    frozen = jax.device_put(model.frozen, whole)
    for batch in whole_split(config, dataset.test, mesh, job.workers):
        sums = eval_step(sums, frozen, *batch)
    sums = EvalSums(*map(np.asarray, sums))
    result = scores(sums, dataset.class_counts, config)
    table = result_table({"zero-shot": result}, dataset.class_counts, config)
    console.print(table)
    if job.out is not None:
        write_json(job.out, {"weights": config.weights, **result})
        console.print(f"The scores are in {job.out}.", markup=False)
    return result


def main() -> None:
    """Runs the command."""
    prog = "python -m experiments.zero_shot"
    job = arguments_of(Job, prog, sys.argv[1:], recipe="clip_cifar100_lt")
    prepare_jax()
    run(job, make_console())


if __name__ == "__main__":
    exit_with(main)
