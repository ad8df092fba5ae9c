"""Run folders in the format of experiments.train, written without training."""

import dataclasses
import json

import numpy as np

from experiments.configs import get_config

CLASSES = 10
STEPS_PER_EPOCH = 9


def write_run(
    folder,
    *,
    accuracy,
    config="digits_lt",
    method="sgd",
    epochs=20,
    finished=True,
    validation=True,
    counts=None,
    **changes,
):
    """Writes a run whose scores follow from ``accuracy``; returns its folder."""
    settings = get_config(config, method).replace(epochs=epochs, **changes)
    if counts is None:
        counts = (100 * 30 ** (-np.arange(CLASSES) / (CLASSES - 1))).astype(int)
    manifest = {
        "config": dataclasses.asdict(settings),
        "class_counts": [int(n) for n in counts],
        "class_names": [f"class {c}" for c in range(len(counts))],
        "parameters": 1234,
        "versions": {},
        "device": {},
        "seeds": {"training": settings.seed, "subset": settings.subset_seed},
    }
    rows = []
    for epoch in range(1, epochs + 1):
        place = {"epoch": epoch, "step": epoch * STEPS_PER_EPOCH}
        progress = 1 - np.exp(-4 * epoch / epochs)
        train = {"loss": 2.3 * (1 - progress * accuracy), "train_accuracy": progress}
        seconds = 30.0 if epoch == 1 else 0.9 + 0.001 * epoch
        rows.append({"split": "train", **place, **train, "skipped": 0})
        rows[-1]["seconds"] = seconds
        if validation and epoch % settings.eval_every == 0:
            rows.append(
                {
                    "split": "validation",
                    **place,
                    **scores(accuracy * progress, len(counts)),
                }
            )
    if finished:
        rows.append(
            {"split": "test", "which": "last", **place, **scores(accuracy, len(counts))}
        )
        if validation:
            best = {"epoch": epochs - 5, "step": (epochs - 5) * STEPS_PER_EPOCH}
            better = scores(accuracy + 0.01, len(counts))
            rows.append({"split": "test", "which": "best", **best, **better})
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(lines)
    return folder


def scores(accuracy, classes):
    """The numbers of an evaluation, all of them different."""
    of_class = np.clip(accuracy + np.linspace(0.1, -0.2, classes), 0, 1)
    return {
        "loss": 1 - accuracy,
        "accuracy": accuracy,
        "accuracy_many": min(1.0, accuracy + 0.05),
        "accuracy_medium": None,
        "accuracy_few": accuracy - 0.15,
        "accuracy_per_class": [float(a) for a in of_class],
        "ece": 0.1 * accuracy,
    }
