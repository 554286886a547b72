"""What to change in a Run that does not fit: one dial if that is enough, or several."""

import math

from launch.planning.analytic import Plan, memory_of_plan
from launch.planning.candidates import (
    MICRO_BATCHES,
    PRESETS,
    Setting,
    candidates,
    overrides,
    present,
)
from model.execution import Remat

MARGIN = 1.02  # on the compiler's figure, since the estimates are right to some percent


def remedies(setting: Setting, name: str, *, measured_peak: int | None = None) -> list[str]:
    """Sentences, each with one dial that makes the step fit by itself; `measured_peak`, which the compiler
    found, corrects the estimates from sizes.

    When no single dial does, the fastest setting of all dials that fits; when none fits, more chips.
    """
    now = present(setting)
    scale = 1.0
    if measured_peak:
        # The compiler's figure over the estimate. Not below 1: other settings may be estimated
        # too low.
        scale = max(MARGIN * measured_peak / memory_of_plan(setting.outline, now).peak, 1.0)
    available = setting.target.chip.hbm_bytes
    single = [
        plan
        for plan in _neighbours(setting, now)
        # What the estimate leaves out is assumed to be the same share in all plans.
        if scale * memory_of_plan(setting.outline, plan).peak <= available
    ]
    if single:
        return [f"{overrides(name, setting.run, plan)} ({_gb(setting, plan)})" for plan in single]
    # No single dial is enough: all of them together, the fastest setting first.
    if fitting := candidates(setting):
        best = fitting[0].plan
        return [f"{overrides(name, setting.run, best)} together ({_gb(setting, best)})"]
    change = f"more chips than {setting.target.n_chips}, or a smaller {name}.data.batch_size"

    return [f"{change}: no setting of the dials fits"]


def _gb(setting: Setting, plan: Plan) -> str:
    return f"about {memory_of_plan(setting.outline, plan).peak / 1e9:.1f} GB a chip"


def _neighbours(setting: Setting, now: Plan) -> list[Plan]:
    """Plans that differ from `now` in one dial: full rematerialisation, more micro-batches, the optimizer
    offloaded, `data` given to `fsdp`.
    """
    execution = now.execution
    plans = []
    if PRESETS.index(execution.remat.preset) + 1 < len(PRESETS):
        # The last preset keeps the least; those between are tried by `--search` only.
        remat = Remat(preset=PRESETS[-1])
        plans.append(now._replace(execution=execution.model_copy(update={"remat": remat})))
    n_row_shards = math.prod(now.sizes[axis] for axis in ("data", "fsdp", "stage", "expert"))
    rows = setting.run.data.batch_size // n_row_shards
    # The rows of a shard must divide into the micro-batches.
    plans += [
        now._replace(micro_batches=n)
        for n in MICRO_BATCHES
        if n > now.micro_batches and rows % n == 0
    ]
    if "optimizer" not in execution.offload:
        offload = (*execution.offload, "optimizer")
        plans.append(now._replace(execution=execution.model_copy(update={"offload": offload})))
    return plans + _meshes(setting, now)


def _meshes(setting: Setting, now: Plan) -> list[Plan]:
    """The plan in which `data` is as small as the slices allow, and `fsdp` larger for it; [] if it is so."""
    n_slices = setting.target.n_slices
    sizes = now.sizes
    # `data` runs over the slices, so it cannot be smaller than their number.
    if sizes["data"] == n_slices:
        return []
    # The number of chips stays the same.
    fsdp = sizes["fsdp"] * sizes["data"] // n_slices
    return [now._replace(sizes={**sizes, "data": n_slices, "fsdp": fsdp})]
