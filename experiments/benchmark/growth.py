"""Cost of a step over the number of classes, examples, parameters or devices."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from experiments import devices
from experiments.benchmark.contestant import Contestant
from experiments.benchmark.jax_steps import build, step_contestant
from experiments.benchmark.workload import Method, Network, Workload, step_name

CLASSES = (10, 20, 100, 1000, 10_000)
BATCH_SIZES = (16, 32, 64, 128, 256)
DEPTHS: tuple[Network, ...] = ("resnet20", "resnet32", "resnet44", "resnet56")
DEVICES = (1, 2, 4, 8)
# For convolutional networks with CC-SAM on CPU: more classes take long to compile, and
# convolutions in a loop are slow there.
_CC_SAM_CLASSES_ON_CPU = 20


class Point(NamedTuple):
    """A measured step.

    Attributes:
      over: what grows, "classes", "batch_size", "parameters" or "devices".
      workload: network, batch size, dtype and classes.
      devices: number of devices that share a batch.
    """

    over: str
    workload: Workload
    devices: int = 1


def points(workload: Workload) -> Iterator[Point]:
    """Yields all points; one quantity grows, the rest is as in ``workload``."""
    yield from (Point("classes", workload._replace(num_classes=c)) for c in CLASSES)
    yield from (
        Point("batch_size", workload._replace(batch_size=b)) for b in BATCH_SIZES
    )
    if workload.model in DEPTHS:
        yield from (Point("parameters", workload._replace(model=m)) for m in DEPTHS)
    for number in DEVICES:
        fits = number <= jax.device_count() and not workload.batch_size % number
        if fits:
            yield Point("devices", workload, number)


def can_run(point: Point, method: Method) -> bool:
    """Returns whether the step compiles and runs in reasonable time."""
    cc_sam = method in ("cc_sam", "cc_sam_head")
    convolutions_on_cpu = (
        point.workload.model.startswith("resnet") and jax.default_backend() == "cpu"
    )
    few = point.workload.num_classes <= _CC_SAM_CLASSES_ON_CPU
    return few or not (cc_sam and convolutions_on_cpu)


def growth_step(point: Point, method: Method) -> Contestant:
    """Returns the step of a method, with its batch split over the devices."""
    workload = point.workload
    step, state, (frozen, *batch) = build(workload, method)
    mesh = devices.device_mesh(point.devices)
    state, frozen = jax.device_put((state, frozen), devices.replicated(mesh))
    arguments = (frozen, *jax.device_put(batch, devices.by_example(mesh)))
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    values = {
        "classes": workload.num_classes,
        "batch_size": workload.batch_size,
        "parameters": parameters,
        "devices": point.devices,
    }
    name: dict[str, Any] = {
        **step_name("jax", workload, method),
        "over": point.over,
        "value": values[point.over],
    }
    return step_contestant(name, step, state, arguments)
