"""The dials of a step: which meshes, rematerialisations, micro-batches and offloads there are, and what
each would cost by sizes alone.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from launch.planning.analytic import Outline, Plan, memory_of_plan, work_of_plan
from launch.planning.compile import Memory
from launch.planning.network import Wiring, wiring_of, wiring_of_gpus
from launch.planning.roofline import Estimate, estimate
from launch.planning.topology import Target, axis_sizes
from model.execution import Remat
from model.mesh import make_mesh
from model.sharding import AXES
from trainer.run import Run

# from the most memory to the least
PRESETS = ("none", "dots", "projections", "inputs", "attention", "full")
MICRO_BATCHES = (1, 2, 4, 8, 16)
OFFLOADS = ((), ("optimizer",))
HEADROOM = 0.95  # estimates are right to some percent; the compiler decides
LONG = 16_384  # positions from which dividing rows over `context` may pay


class Candidate(NamedTuple):
    """A setting of the dials, and what it costs by sizes."""

    plan: Plan
    memory: Memory
    estimate: Estimate


class Setting(NamedTuple):
    """What a search starts from: the Run, its outline, the target and the devices (none for GPUs)."""

    run: Run
    outline: Outline
    target: Target
    devices: tuple[Any, ...]


def present(setting: Setting) -> Plan:
    """The dials as the config has them.

    Raises:
        ValueError: the mesh does not divide the target.
    """
    run = setting.run
    return Plan(
        axis_sizes(run.mesh, setting.target), run.data.batch_size, run.micro_batches, run.execution
    )


def candidates(setting: Setting) -> list[Candidate]:
    """All settings that fit by sizes, the fastest first."""
    fitting = []
    for plan in plans(setting):
        memory = memory_of_plan(setting.outline, plan)
        # The time is estimated only for what fits.
        if memory.peak <= HEADROOM * setting.target.chip.hbm_bytes:
            fitting.append(Candidate(plan, memory, rated(setting, plan)))
    # Of equal times the one with less memory comes first, since it is safer.
    return sorted(fitting, key=lambda each: (each.estimate.step_s, each.memory.peak))


def rated(setting: Setting, plan: Plan) -> Estimate:
    """The roofline of a plan by sizes."""
    wiring = wiring_for(setting.target, tuple(plan.sizes.values()), setting.devices)
    return estimate(work_of_plan(setting.outline, plan), wiring)


@functools.cache
def wiring_for(target: Target, shape: tuple[int, ...], devices: tuple[Any, ...]) -> Wiring:
    """The wiring of a mesh of this shape."""
    # A tuple and not a dict, because the cache needs hashable arguments.
    sizes = dict(zip(AXES, shape, strict=True))
    if target.chip.platform == "gpu":
        return wiring_of_gpus(sizes, target)
    return wiring_of(make_mesh(list(devices), **sizes), target)


def plans(setting: Setting) -> Iterator[Plan]:
    """Every mesh with every rematerialisation, number of micro-batches and offload that rows and sizes
    divide over.
    """
    run = setting.run
    for sizes in meshes(setting):
        rows = math.prod(sizes[axis] for axis in ("data", "stage", "fsdp", "expert"))
        for preset, micro_batches, offload in itertools.product(PRESETS, MICRO_BATCHES, OFFLOADS):
            # Every chip must hold whole rows of every micro-batch.
            if run.data.batch_size % (rows * micro_batches) == 0:
                execution = run.execution.model_copy(
                    update={"remat": Remat(preset=preset), "offload": offload}
                )
                yield Plan(sizes, run.data.batch_size, micro_batches, execution)


def meshes(setting: Setting) -> Iterator[dict[str, int]]:
    """Sizes of the axes whose product is the target; each divides what lies on it."""
    run, n = setting.run, setting.target.n_chips
    a = run.architecture

    # Limits of 8 and 16 chips keep the search small.
    choices = {
        # Slices are the outer part of `data`: only its sums go over the slow network.
        "data": [size for size in _divisors(n) if size % setting.target.n_slices == 0],
        # More than eight stages would leave mostly bubble at the batch sizes of one pod.
        "stage": [
            size for size in _divisors(n) if size == 1 or (size <= 8 and a.layers % size == 0)
        ],
        # Dividing short rows over chips costs more than it saves.
        "context": [
            size
            for size in _divisors(n)
            if size == 1 or (run.data.row_length >= LONG and size <= 16)
        ],
        "expert": [size for size in _divisors(n) if setting.outline.experts[1] % size == 0],
        # A head cannot be divided, and beyond 16 chips the exchanges cost more than they save.
        "tensor": [size for size in _divisors(n) if size <= 16 and a.heads % size == 0],
    }
    for combination in itertools.product(*choices.values()):
        sizes = dict(zip(choices, combination, strict=True))
        # fsdp gets the chips that are left; no whole number if the product does not divide n.
        left = n / math.prod(combination)
        if left == int(left) and a.width % int(left) == 0:
            yield {axis: int(left) if axis == "fsdp" else sizes[axis] for axis in AXES}


def _divisors(n: int) -> list[int]:
    return [size for size in range(1, n + 1) if n % size == 0]


def applied(run: Run, plan: Plan) -> Run:
    """The Run with a plan's dials."""
    mesh = type(run.mesh)(**plan.sizes)
    return run.model_copy(
        update={"mesh": mesh, "execution": plan.execution, "micro_batches": plan.micro_batches}
    )


def overrides(name: str, run: Run, plan: Plan) -> str:
    """The `--set` arguments that change the dials of phase `name` from the config's to the plan's."""
    now, then = flat_dials(run), flat_dials(applied(run, plan))
    return " ".join(
        f"--set {name}.{path}={_yaml(then[path])}" for path in then if then[path] != now.get(path)
    )


def flat_dials(run: Run) -> dict[str, Any]:
    """Dotted path → value of what a search changes."""
    mesh = {f"mesh.{axis}": size for axis, size in run.mesh.sizes().items()}
    # A pydantic model iterates over its fields: (name, value).
    remat = {f"execution.remat.{field}": value for field, value in run.execution.remat}
    return {
        **mesh,
        "micro_batches": run.micro_batches,
        **remat,
        "execution.offload": run.execution.offload,
    }


def _yaml(value: Any) -> str:
    # Quoted, because a shell would expand the brackets.
    return f"'[{', '.join(value)}]'" if isinstance(value, tuple) else str(value)
