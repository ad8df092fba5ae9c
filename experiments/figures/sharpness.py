"""The figures of an analysis, each with its numbers as JSON beside it."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.figures.style import finish, log_axis, save, styles
from experiments.records.manifest import write_json

# Grid points of a density, and its kernel width over the range of eigenvalues.
_POINTS, _WIDTH = 400, 0.01
# Maximum number of counts that are named on the axis.
_NAMED = 12


def class_sharpness(
    path: Path, curves: dict[str, np.ndarray], counts: np.ndarray, label: str
) -> None:
    """Draws the sharpness of every class over its training images, a curve per method.

    Args:
      path: path of the PNG.
      curves: by method, sharpness of every run and class, the most frequent first, NaN
        for a class without images, float, ``(runs, num_classes)``. Bars are standard
        deviations over the runs.
      counts: training images of the classes, in falling order, ``(num_classes,)``.
      label: label of the vertical axis.
    """
    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    axes = figure.subplots()
    numbers: dict[str, Any] = {"training_images": counts.tolist(), "label": label}
    # Shifts the curves within half of the smallest gap, so that bars do not overlap.
    gap = np.min(np.abs(np.diff(np.log(np.unique(counts)))), initial=0.4)
    apart = np.exp(-gap / 2 * ((np.arange(len(curves)) + 0.5) / len(curves) - 0.5))
    looks = styles(curves)
    for place, (name, of_runs) in enumerate(curves.items()):
        mean = of_runs.mean(axis=0)
        spread = (
            of_runs.std(axis=0, ddof=1) if len(of_runs) > 1 else np.zeros(len(mean))
        )
        numbers[name] = {"mean": mean.tolist(), "standard_deviation": spread.tolist()}
        axes.errorbar(
            counts * apart[place],
            mean,
            # A logarithmic axis cannot show a bar down to zero.
            [np.minimum(spread, 0.9 * np.abs(mean)), spread],
            marker="o",
            **looks[place],
            ms=4,
            lw=1.3,
            elinewidth=0.8,
            label=name,
        )
    axes.set_xscale("log")
    if len(set(counts.tolist())) <= _NAMED:
        axes.set_xticks(counts, [f"{n:,}" for n in counts])
        axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    axes.invert_xaxis()
    axes.set_xlabel("training images of the class (rare classes on the right)")
    axes.set_ylabel(label)
    if all(np.nanmin(of_runs) > 0 for of_runs in curves.values()):
        log_axis(axes)
    finish(axes)
    save(figure, path)
    write_json(path.with_suffix(".json"), numbers)


def spectra(path: Path, densities: dict[str, dict[str, list[Any]]], title: str) -> None:
    """Draws the density of Hessian eigenvalues, a panel per group, a curve per method.

    Args:
      path: path of the PNG.
      densities: by group of classes and method, a spectrum per run.
      title: title of the figure.
    """
    figure = Figure(figsize=(5.2 * len(densities) + 1.6, 4.0), layout="constrained")
    panels = figure.subplots(1, len(densities), sharey=True, squeeze=False)[0]
    numbers: dict[str, Any] = {}
    for axes, (group, by_method) in zip(panels, densities.items(), strict=True):
        nodes = np.concatenate(
            [np.ravel(s.nodes) for runs in by_method.values() for s in runs]
        )
        reach = nodes.max() - nodes.min()
        width = _WIDTH * (float(reach) or 1.0)
        grid = np.linspace(nodes.min() - 4 * width, nodes.max() + 4 * width, _POINTS)
        numbers[group] = {"eigenvalue": grid.tolist(), "width": width}
        for look, (name, runs) in zip(
            styles(by_method), by_method.items(), strict=True
        ):
            density = np.mean([s.density(grid, width) for s in runs], axis=0)
            numbers[group][name] = density.tolist()
            axes.plot(grid, density, lw=1.3, label=name, **look)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(
            lambda value, _: np.format_float_positional(value, trim="-")
        )
        # Lower values are Gaussian tails.
        axes.set_ylim(bottom=1e-6 / width)
        axes.set_title(f"{group}-shot classes")
        axes.set_xlabel(
            f"eigenvalue of the Hessian,\nbroadened by a Gaussian of ±{width:.2g}"
        )
        finish(axes, legend=axes is panels[-1])
    panels[0].set_ylabel("density of eigenvalues")
    figure.suptitle(title)
    save(figure, path)
    write_json(path.with_suffix(".json"), numbers)


def landscapes(path: Path, planes: dict[str, Any], groups: tuple[str, ...]) -> None:
    """Draws the loss around networks on one scale: columns are methods, rows groups.

    Args:
      path: path of the PNG.
      planes: by method, landscapes with the same steps.
      groups: groups of classes; all classes if none of them is there.
    """
    first = next(iter(planes.values()))
    groups = tuple(group for group in groups if group in first.losses) or ("all",)
    shape = (len(groups), len(planes))
    size = (2.4 * shape[1] + 1.8, 2.3 * shape[0] + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
    highest = max(
        float(plane.losses[group].max())
        for plane in planes.values()
        for group in groups
    )
    # A square root makes low losses visible.
    norm = PowerNorm(0.5, vmin=0.0, vmax=highest)
    levels = highest * np.linspace(0, 1, 13) ** 2
    drawn = None
    for row, group in enumerate(groups):
        for column, (name, plane) in enumerate(planes.items()):
            axes = panels[row, column]
            drawn = axes.contourf(
                plane.steps,
                plane.steps,
                plane.losses[group].T,
                levels=levels,
                norm=norm,
                cmap="cividis",
            )
            axes.plot(0, 0, "w+", ms=7)
            axes.set_aspect("equal")
            if row == 0:
                axes.set_title(name)
            if column == 0:
                classes = "all" if group == "all" else f"{group}-shot"
                axes.set_ylabel(f"{classes} classes\nsecond direction")
            if row == len(groups) - 1:
                axes.set_xlabel("first direction")
    figure.supxlabel("directions in units of the norm of each filter", size=10)
    ticks = MaxNLocator(6).tick_values(0.0, highest)
    bar = figure.colorbar(drawn, ax=panels, shrink=0.9, format="%g", ticks=ticks)
    bar.set_label("mean loss")
    save(figure, path)
    write_json(
        path.with_suffix(".json"),
        {
            name: {
                "steps": plane.steps.tolist(),
                "losses": {g: plane.losses[g].tolist() for g in plane.losses},
            }
            for name, plane in planes.items()
        },
    )
