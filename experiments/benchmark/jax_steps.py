"""Training steps of the experiments, compiled for the current device."""

import time
from collections.abc import Callable
from typing import Any

import jax

from experiments.benchmark.contestant import Contestant
from experiments.benchmark.workload import Method, Workload, step_name
from experiments.models import make_model
from experiments.training.criterion import make_loss
from experiments.training.optimizer import make_optimizer
from experiments.training.step import TrainState, init_state, make_train_step

# Only the schedules use it.
_STEPS_PER_EPOCH = 169


def jax_step(workload: Workload, method: Method) -> Contestant:
    """Returns the training step of a method.

    Its costs are those that the compiler states: FLOPs of all kinds of arithmetic, and
    the bytes of arguments, results and temporary arrays.
    """
    return step_contestant(step_name("jax", workload, method), *build(workload, method))


def build(
    workload: Workload, method: Method
) -> tuple[Callable[..., TrainState], TrainState, tuple[Any, ...]]:
    """Returns the step, an initial state, and the other arguments, on the device."""
    config, counts = workload.config(method), workload.class_counts
    model = make_model(config, workload.num_classes, workload.channels)
    if method == "focal_sam_unshared":
        model = model._replace(per_example=False)
    tx = make_optimizer(config, counts, _STEPS_PER_EPOCH)
    loss = make_loss(config, counts)
    step = make_train_step(config, model, tx, loss, len(counts), _STEPS_PER_EPOCH)
    state = init_state(jax.random.key(0), model, tx, ema=config.ema)
    images, labels = workload.batch()
    return step, state, jax.device_put((model.frozen, images, labels))


def step_contestant(name: dict[str, Any], step, state, arguments) -> Contestant:
    """Compiles a step; returns it with its costs and the seconds that this took."""
    compiled, seconds = compile_step(step, state, *arguments)
    costs = {**compiled_costs(compiled), "compile_s": seconds}
    return Contestant(name, repeatedly(compiled, state, arguments), costs)


def compile_step(step, state, *arguments) -> tuple[jax.stages.Compiled, float]:
    """Returns the compiled step, and the seconds to trace and compile it."""
    began = time.perf_counter()
    jitted = jax.jit(step, donate_argnums=0)
    compiled = jitted.lower(state, *arguments).compile()
    return compiled, time.perf_counter() - began


def compiled_costs(compiled: jax.stages.Compiled) -> dict[str, Any]:
    """Returns FLOPs and peak bytes of a call."""
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    # A donated argument shares memory with its result.
    made = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return {"flops": cost["flops"], "peak_bytes": held + made}


def repeatedly(compiled, state, arguments) -> Callable[[int], None]:
    """Returns a function that runs steps in sequence and waits for the last."""

    def run(turns):
        nonlocal state
        for _ in range(turns):
            state = compiled(state, *arguments)
        jax.block_until_ready(state)

    return run
