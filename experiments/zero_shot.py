"""How well CLIP does without training: ``python -m experiments.zero_shot --help``."""

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
from experiments import sharding
from experiments.arguments import arguments_of
from experiments.compiled import compute_right_sums, keep_compiled
from experiments.config import Config
from experiments.data.load import load_dataset
from experiments.data.views import judged_views
from experiments.errors import UserError, exit_with
from experiments.evaluation import scores
from experiments.head_start import class_prompts
from experiments.models import (
    class_embeddings,
    fitting_clip,
    mean_over_views,
    zero_shot_clip,
)
from experiments.parts import part_batches
from experiments.records import write_json
from experiments.step import EvalSums, make_eval_step, no_sums
from experiments.terminal import result_table


@dataclass(frozen=True)
class Job:
    """Judges CLIP on the test images by prompts alone, with the class names as words.

    --head-init text takes one prompt a class, text_ensemble the mean of eighty.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    data_dir: Annotated[
        Path, tyro.conf.arg(help="folder of data sets; digits_lt brings its own")
    ] = Path("data")
    out: Annotated[
        Path | None, tyro.conf.arg(help="JSON file for the scores; none: not written")
    ] = None
    workers: Annotated[
        int, tyro.conf.arg(help="processes that read images; 0: threads only")
    ] = 0


def run(job: Job, console: Console) -> dict:
    """Scores, prints and records; returns the scores."""
    config = job.config
    if config.model != "clip":
        raise UserError(f"zero-shot scores are CLIP's, got --model {config.model}.")
    if job.out is not None and job.out.exists():
        raise UserError(f"--out {job.out} is there already: name another file.")
    clip = fitting_clip(config)
    dataset = load_dataset(config, job.data_dir)
    classes = class_embeddings(clip, class_prompts(config, dataset))
    weights = clip.vision()
    assert weights is not None
    model = zero_shot_clip(
        clip.architecture.vision, weights, classes, jnp.dtype(config.precision)
    )
    mesh = sharding.device_mesh()

    @jax.jit
    def look(sums, frozen, images, labels, real):
        add = make_eval_step(
            mean_over_views(model.given(frozen)), fsam.losses.cross_entropy
        )
        views = judged_views(config, dataset.normalised(images))
        return add(sums, ({}, {}), views, labels, real)

    whole = sharding.replicated(mesh)
    sums = jax.device_put(no_sums(len(classes)), whole)
    frozen = jax.device_put(model.frozen, whole)
    for batch in part_batches(config, dataset.test, mesh, job.workers):
        sums = look(sums, frozen, *batch)
    sums = EvalSums(*map(np.asarray, sums))
    result = scores(sums, dataset.class_counts, config)
    table = result_table({"zero-shot": result}, dataset.class_counts, config)
    console.print(table)
    if job.out is not None:
        write_json(job.out, {"weights": config.weights, **result})
        console.print(f"The scores are in {job.out}.")
    return result


def main() -> None:
    """The command."""
    prog = "python -m experiments.zero_shot"
    job = arguments_of(Job, prog, sys.argv[1:], recipe="clip_cifar100_lt")
    compute_right_sums()
    keep_compiled()
    run(job, Console())


if __name__ == "__main__":
    exit_with(main)
