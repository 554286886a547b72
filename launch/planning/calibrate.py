"""Predicted next to published MFU; `python -m launch.planning` prints it."""

from functools import cache
from typing import Any, NamedTuple

from launch.planning.analytic import Plan, work_of_plan
from launch.planning.network import wiring_of
from launch.planning.published import Published, outline
from launch.planning.roofline import EFFICIENCY, Efficiency, Work, estimate
from launch.planning.topology import Target, load_devices, target_of
from model.execution import Execution
from model.mesh import make_mesh
from model.sharding import AXES

ACCEPTED_POINTS = 8.0


class Predicted(NamedTuple):
    """MFU in percent, beside the published one."""

    row: Published
    mfu: float

    @property
    def difference(self) -> float:
        """Points above the published MFU."""
        return self.mfu - self.row.mfu


# Cached, because libtpu takes seconds to describe a large topology, and many rows share one.
@cache
def _target(topology: str, n_slices: int) -> tuple[Target, Any]:
    target = target_of(topology, n_slices)
    return target, load_devices(target)


@cache
def worked(row: Published) -> tuple[Work, Any, float]:
    """(what a chip does in a step, the wiring, model FLOPs of a chip in a step as MaxText counts them)."""
    target, devices = _target(row.topology, row.n_slices)
    # MaxText puts slices on `data`, and the rest of a slice on fsdp.
    sizes = {**dict.fromkeys(AXES, 1), "data": row.n_slices, "tensor": row.tensor}
    sizes["fsdp"] = target.n_chips // row.n_slices // row.tensor
    model = outline(row.model, row.seq_len)
    work = work_of_plan(
        model, Plan(sizes, row.rows * target.n_chips, 1, Execution(remat=row.remat))
    )
    layers = sum(leaf.n for leaf in model.params if leaf.is_layer)

    # MaxText counts all of the attention square, though a causal mask needs only half of it.
    # 12: 6 for each of the two products, scores and mixing.
    attention = 12 * model.layers * model.head_numbers * row.seq_len
    flops = float(row.rows * row.seq_len) * (
        6 * (layers + model.width * model.vocab_size) + attention
    )
    return work, wiring_of(make_mesh(devices, **sizes), target), flops


def predict(row: Published, efficiency: Efficiency = EFFICIENCY) -> Predicted:
    """What the analytic model and the roofline say of a row."""
    work, wiring, flops = worked(row)
    step_s = estimate(work, wiring, efficiency).step_s
    return Predicted(row, 100 * flops / step_s / wiring.target.chip.bf16_flops)


def mean_error(predictions: list[Predicted]) -> float:
    """Mean absolute difference, points of MFU."""
    return sum(abs(each.difference) for each in predictions) / len(predictions)


def table(predictions: list[Predicted]) -> list[str]:
    """A Markdown table with a line for each row, and the mean error below it."""
    lines = [
        "| model | slices | rows a chip | tensor | published % | predicted % | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in predictions:
        row = each.row
        cells = (
            row.model,
            f"{row.n_slices} × {row.topology}",
            f"{row.rows} × {row.seq_len}",
            row.tensor,
        )
        lines.append(
            f"| {' | '.join(map(str, cells))} | {row.mfu:.1f} | {each.mfu:.1f} | {each.difference:+.1f} |"
        )
    mean = f"Mean absolute difference {mean_error(predictions):.1f} points over {len(predictions)} rows."
    return [*lines, "", mean]
