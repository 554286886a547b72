"""What to change in a Run that does not fit: the one dial that costs least, or several."""

import itertools

from launch.planning.analytic import Plan, memory_of_plan
from launch.planning.candidates import MICRO_BATCHES, PRESETS, Setting, candidates, overrides, present
from model.execution import Remat

MARGIN = 1.02  # of the memory that sizes alone are short of


def remedies(setting: Setting, name: str, *, measured_peak: int | None = None) -> list[str]:
    """Sentences, each with one dial that makes the step fit by itself; `measured_peak` corrects what the
    sizes alone say.

    When no single dial does, the fastest setting of all dials that fits; when none fits, more chips.
    """
    now = present(setting)
    scale = (
        MARGIN * (measured_peak or 0) / memory_of_plan(setting.outline, now).peak if measured_peak else 1.0
    )
    available = setting.target.chip.hbm_bytes
    single = [
        plan
        for plan in _neighbours(setting, now)
        if max(scale, 1.0) * memory_of_plan(setting.outline, plan).peak <= available
    ]
    if single:
        return [f"{overrides(name, setting.run, plan)} ({_gb(setting, plan)})" for plan in single]
    if found := candidates(setting):
        return [f"{overrides(name, setting.run, found[0].plan)} together ({_gb(setting, found[0].plan)})"]
    return [
        f"more chips than {setting.target.n_chips}, or a smaller {name}.data.batch_size: no setting of the dials fits"
    ]


def _gb(setting: Setting, plan: Plan) -> str:
    return f"about {memory_of_plan(setting.outline, plan).peak / 1e9:.1f} GB a chip"


def _neighbours(setting: Setting, now: Plan) -> list[Plan]:
    """One dial turned from where it is: the next rematerialisations, micro-batches, offload, tensor against
    fsdp.
    """
    preset = now.execution.remat.preset
    later = PRESETS[PRESETS.index(preset) + 1 :]
    found = [
        now._replace(execution=now.execution.model_copy(update={"remat": Remat(preset=name)}))
        for name in later
    ][-1:]
    rows = setting.run.data.batch_size // (
        now.sizes["data"] * now.sizes["fsdp"] * now.sizes["stage"] * now.sizes["expert"]
    )
    found += [now._replace(micro_batches=n) for n in MICRO_BATCHES if n > now.micro_batches and rows % n == 0]
    if "optimizer" not in now.execution.offload:
        found.append(
            now._replace(
                execution=now.execution.model_copy(update={"offload": (*now.execution.offload, "optimizer")})
            )
        )
    return found + list(itertools.islice(_meshes(setting, now), 1))


def _meshes(setting: Setting, now: Plan) -> list[Plan]:
    """All of `data` that slices do not need given to `fsdp`."""
    n_slices, sizes = setting.target.n_slices, now.sizes
    if sizes["data"] == n_slices:
        return []
    return [
        now._replace(sizes={**sizes, "data": n_slices, "fsdp": sizes["fsdp"] * sizes["data"] // n_slices})
    ]
