"""The figures of the documentation, drawn when it is built."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import focal_sam_jax as fsam

BLUE, ORANGE, BLACK = "#0072B2", "#D55E00", "#000000"
# From dark to light, distinct for colour-blind readers.
SHADES = ("#000000", "#0072B2", "#009E73", "#D55E00", "#CC79A7")
RHO, STEP = 0.45, 0.35


def draw_all(folder: Path) -> None:
    """Draws every figure into ``folder``."""
    folder.mkdir(exist_ok=True)
    focal_weights(folder / "weights.png")
    ascent(folder / "ascent.png")


def focal_weights(path: Path) -> None:
    """Draws class weight against class share, for several exponents."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    share = np.linspace(0.001, 0.999, 300)
    for gamma, colour in zip((0, 0.5, 1, 3, 8), SHADES, strict=True):
        # The second of two classes has the rest.
        weights = [float(fsam.focal_weights([p, 1 - p], gamma)[0]) for p in share]
        axes.plot(100 * share, weights, color=colour, label=f"γ = {gamma:g}")
    axes.set_xlabel("share of the class in the training set (%)")
    axes.set_ylabel("class weight $s_c$")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 1.05)
    _finish(axes)
    figure.savefig(path, dpi=160)


def landscape(point: jax.Array) -> jax.Array:
    """Computes a loss with equally deep valleys: narrow left, wide right."""
    x, y = point
    narrow = jnp.exp(-((x + 0.9) ** 2) / 0.05 - y**2 / 1.2)
    wide = jnp.exp(-((x - 0.9) ** 2) / 0.9 - y**2 / 1.2)
    return 0.15 * y**2 - narrow - wide


def ascent(path: Path) -> None:
    """Draws a step of SGD and of SAM from one point between two valleys."""
    figure = Figure(figsize=(7.4, 2.9), layout="constrained")
    axes = figure.subplots()
    x, y = np.linspace(-1.8, 2.0, 200), np.linspace(-0.9, 1.3, 150)
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    heights = jax.vmap(landscape)(jnp.asarray(grid)).reshape(len(y), len(x))
    axes.contour(x, y, heights, levels=18, cmap="cividis", linewidths=0.8)

    here = jnp.array([-0.62, 0.55])
    plain = jax.grad(landscape)(here)
    losses = fsam.sharpness_aware_value_and_grad(
        lambda p: landscape(p)[None], 1.0, rho=RHO
    )
    _, corrected = losses(here)
    there = here + RHO * plain / jnp.linalg.norm(plain)
    _arrow(axes, here, there, BLACK, "ε, ascent step")
    for gradient, colour, label in (
        (plain, ORANGE, "plain step, −∇L(θ)"),
        (corrected, BLUE, "SAM's step, −∇L(θ + ε)"),
    ):
        end = here - STEP * gradient / jnp.linalg.norm(gradient)
        _arrow(axes, here, end, colour, label)
    axes.plot(*here, "o", color=BLACK, ms=5)
    axes.annotate("θ", here, (-3, 7), textcoords="offset points")
    axes.annotate("θ + ε", there, (2, 0), textcoords="offset points")
    axes.set_xlabel("first parameter")
    axes.set_ylabel("second parameter")
    axes.set_aspect("equal")
    _finish(axes)
    figure.savefig(path, dpi=160)


def _arrow(axes, start, end, colour, label):
    start, end = np.asarray(start), np.asarray(end)
    look = {"arrowstyle": "-|>", "color": colour, "lw": 1.8}
    axes.annotate("", end, start, arrowprops=look | {"shrinkA": 0, "shrinkB": 0})
    axes.plot([], [], color=colour, lw=1.8, label=label)


def _finish(axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
