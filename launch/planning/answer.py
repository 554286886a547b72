"""What `meshwright plan` says of one Run on one target: as numbers (`--json`) and as lines."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from launch.planning.collectives import Transfer
from launch.planning.compile import GIB, Memory
from launch.planning.network import Wiring, describe, transfer_seconds
from launch.planning.roofline import EFFICIENCY, Efficiency, Estimate, Work, estimate

ASSUMPTIONS = (
    "step = max(products, HBM) + the part of the network that nothing hides; products reach "
    "{e.matmul:.0%} of the chip's bf16 FLOP/s, attention kernels {e.kernel:.0%}, HBM {e.hbm:.0%}, "
    "links {e.network:.0%} of their bandwidth; {e.overlap:.0%} of the network hides",
    "these five are the same for all chips, models and meshes, fitted to MaxText's published tables: "
    "docs/planning.md has the errors",
    "attention is causal over whole rows; input, checkpoints, evaluations and failures take no time",
)


class Answer(NamedTuple):
    """The plan of a step; FLOPs and bytes are those of one chip, `tokens` those of the global batch."""

    name: str
    wiring: Wiring
    sizes: dict[str, int]
    work: Work
    memory: Memory
    model_flops: float
    tokens: int
    steps: int
    compile_s: float | None  # None: estimated from sizes, nothing compiled

    @property
    def estimate(self) -> Estimate:
        """Times by the roofline model (roofline.py), computed anew at each call."""
        return estimate(self.work, self.wiring, EFFICIENCY)

    @property
    def mfu(self) -> float:
        """Model FLOPs a second, as a share of the chip's."""
        return self.model_flops / self.estimate.step_s / self.wiring.target.chip.bf16_flops

    @property
    def fits(self) -> bool:
        """Whether a chip has the memory."""
        return self.memory.peak <= self.wiring.target.chip.hbm_bytes


def as_json(answer: Answer) -> dict[str, Any]:
    """The numbers, units in their names."""
    # once, because the property computes it anew at every call
    e, target, memory = answer.estimate, answer.wiring.target, answer.memory

    # Only steps: input, evaluations and checkpoints are not counted.
    seconds = e.step_s * answer.steps
    return {
        "phase": answer.name,
        "topology": target.name,
        "slices": target.n_slices,
        "n_chips": target.n_chips,
        "mesh": answer.sizes,
        "compiled": answer.compile_s is not None,
        "compile_s": answer.compile_s,
        "fits": answer.fits,
        "hbm_available_bytes": target.chip.hbm_bytes,
        "hbm_arguments_bytes": memory.arguments,
        "hbm_temporaries_bytes": memory.temporaries,
        "hbm_peak_bytes": memory.peak,
        "hbm_free_bytes": target.chip.hbm_bytes - memory.peak,
        "host_bytes": memory.host,
        "model_flops": answer.model_flops,
        "hardware_flops": answer.work.matmul_flops + answer.work.kernel_flops,
        "kernel_flops": answer.work.kernel_flops,
        "hbm_traffic_bytes": answer.work.hbm_bytes,
        "collective_bytes": _by_kind(answer.work.transfers),
        "collectives": [
            _transfer_json(answer.wiring, transfer) for transfer in answer.work.transfers
        ],
        "compute_s": e.compute_s,
        "hbm_s": e.hbm_s,
        "network_s": e.network.inner,
        "outer_network_s": e.network.outer,
        "exposed_network_s": e.exposed_s,
        "host_s": e.host_s,
        "predicted_step_s": e.step_s,
        "predicted_mfu": answer.mfu,
        "tokens_per_s": answer.tokens / e.step_s,
        "tokens_per_s_per_chip": answer.tokens / e.step_s / target.n_chips,
        "tokens": answer.tokens * answer.steps,
        "days": seconds / 86400,
        "chip_hours": seconds / 3600 * target.n_chips,
        "assumptions": list(_assumptions(answer)),
        "source": target.chip.source,
    }


def _by_kind(transfers: Sequence[Transfer]) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for transfer in transfers:
        sums[transfer.kind] += transfer.n_bytes
    return dict(sums)


def _transfer_json(wiring: Wiring, transfer: Transfer) -> dict[str, Any]:
    seconds = transfer_seconds(wiring, transfer)
    total_s = (seconds.inner + seconds.outer) / EFFICIENCY.network
    return {**transfer._asdict(), "over": describe(wiring, transfer.axes), "seconds": total_s}


def _assumptions(answer: Answer, efficiency: Efficiency = EFFICIENCY) -> list[str]:
    return [*(line.format(e=efficiency) for line in ASSUMPTIONS), *answer.work.notes]


def lines(answer: Answer) -> list[str]:
    """The answer for people: memory, FLOPs and network of one chip, then times of the whole."""
    target = answer.wiring.target
    axes = ", ".join(
        f"{axis}={size} ({describe(answer.wiring, (axis,))})"
        for axis, size in answer.sizes.items()
        if size > 1
    )
    if answer.compile_s is None:
        how = "by sizes alone: no compiler for GPUs works without one"
    else:
        how = f"compiled in {answer.compile_s:.0f} s"
    return [
        f"{answer.name} on {target.describe()}; mesh {axes or '1 device'}; {how}",
        "",
        "one chip",
        *_memory_lines(answer),
        *_flop_lines(answer),
        *_network_lines(answer),
        "",
        "predicted",
        *_time_lines(answer),
        "",
        *(f"assumed: {line}" for line in _assumptions(answer)),
        f"chip table: {target.chip.source}",
    ]


def _row(what: str, value: str, more: str = "") -> str:
    # Fixed widths, so that the numbers of all rows are aligned to the right.
    return f"  {what:<21}{value:>16}  {more}".rstrip()


def _memory_lines(answer: Answer) -> list[str]:
    memory, available = answer.memory, answer.wiring.target.chip.hbm_bytes
    host = [_row("in the host's memory", _gb(memory.host))] if memory.host else []
    return [
        _row("HBM arguments", _gb(memory.arguments), "parameters, optimizer state, batch"),
        _row(
            "HBM temporaries", _gb(memory.temporaries), "activations, gradients, gathered weights"
        ),
        _row("HBM peak", _gb(memory.peak), f"of {available / GIB:.2f} GiB"),
        _row("HBM free", _gb(available - memory.peak)),
        *host,
    ]


def _flop_lines(answer: Answer) -> list[str]:
    hardware = answer.work.matmul_flops + answer.work.kernel_flops
    in_kernels = f"of them {answer.work.kernel_flops / 1e12:,.1f} in kernels"
    kernels = f"{in_kernels}; {hardware / answer.model_flops:.2f} × the model's"
    return [
        _row("model FLOPs", f"{answer.model_flops / 1e12:,.1f} T"),
        _row("hardware FLOPs", f"{hardware / 1e12:,.1f} T", kernels),
    ]


def _network_lines(answer: Answer) -> list[str]:
    rows = []
    for transfer in answer.work.transfers:
        # Below 1 MB they are sums of metrics and norms: hundreds, which take no time.
        if transfer.n_bytes < 1e6:
            continue
        numbers = _transfer_json(answer.wiring, transfer)
        over = f"over {' · '.join(transfer.axes)} ({numbers['over']})"
        sent = f"{transfer.wire_bytes / 1e9:.2f} GB sent"
        more = f"{over}, {sent}, {numbers['seconds']:.3f} s"
        rows.append(_row(transfer.kind, _gb(transfer.n_bytes), more))
    return rows or [_row("collectives", "none")]


def _time_lines(answer: Answer) -> list[str]:
    e = answer.estimate
    n_chips = answer.wiring.target.n_chips
    rate = answer.tokens / e.step_s
    seconds = e.step_s * answer.steps
    tokens = answer.tokens * answer.steps
    network = f"{e.exposed_s:.3f} s of it exposed"
    outer = []
    if e.network.outer:
        outer = [_row("network, outer", f"{e.network.outer:.3f} s", "data-centre network")]

    return [
        _row("products", f"{e.compute_s:.3f} s"),
        _row(
            "HBM", f"{e.hbm_s:.3f} s", f"{answer.work.hbm_bytes / 1e9:,.0f} GB, beside the products"
        ),
        _row("network", f"{e.network.inner:.3f} s", network),
        *outer,
        *(
            [_row("offloads", f"{e.host_s:.3f} s", "to the host's memory and back")]
            if e.host_s
            else []
        ),
        _row("step", f"{e.step_s:.3f} s"),
        _row("MFU", f"{answer.mfu:.1%}"),
        _row("speed", f"{rate:,.0f} tok/s", f"{rate / n_chips:,.0f} a chip"),
        _row(
            "whole phase",
            f"{seconds / 86400:,.1f} days",
            f"{tokens / 1e9:,.1f} G tokens, {seconds / 3600 * n_chips:,.0f} chip-hours",
        ),
    ]


def _gb(n_bytes: float | int) -> str:
    return f"{n_bytes / 1e9:,.2f} GB"
