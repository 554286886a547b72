"""What to change in a Run that does not fit: the one dial that costs least, or several."""

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

MARGIN = 1.02  # a setting must fit with this factor on top of the measured shortage


def remedies(setting: Setting, name: str, *, measured_peak: int | None = None) -> list[str]:
    """Sentences, each with one dial that makes the step fit by itself; `measured_peak` corrects what the
    sizes alone say.

    When no single dial does, the fastest setting of all dials that fits; when none fits, more chips.
    """
    now = present(setting)
    scale = 1.0
    if measured_peak:
        # the compiler's figure over that of the sizes; never below 1, since another setting may err otherwise
        scale = max(MARGIN * measured_peak / memory_of_plan(setting.outline, now).peak, 1.0)
    available = setting.target.chip.hbm_bytes
    single = [
        plan
        for plan in _neighbours(setting, now)
        # The scale stands for what the sizes leave out, and is taken as the same for all plans.
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
        # the last preset keeps least; those between are left to the search
        remat = Remat(preset=PRESETS[-1])
        plans.append(now._replace(execution=execution.model_copy(update={"remat": remat})))
    n_row_shards = math.prod(now.sizes[axis] for axis in ("data", "fsdp", "stage", "expert"))
    rows = setting.run.data.batch_size // n_row_shards
    # Every row shard must still hold whole micro-batches.
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
    """The plan with all of `data` that slices do not need given to `fsdp`; none if that is so already."""
    n_slices = setting.target.n_slices
    sizes = now.sizes
    # `data` spans the slices and cannot shrink below their number.
    if sizes["data"] == n_slices:
        return []
    # Chips stay the same in number: what `data` loses, fsdp gains.
    fsdp = sizes["fsdp"] * sizes["data"] // n_slices
    return [now._replace(sizes={**sizes, "data": n_slices, "fsdp": fsdp})]
