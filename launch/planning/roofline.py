"""From work to time: a roofline of products, HBM and network, and how much of the network overlaps."""

from collections.abc import Sequence
from typing import NamedTuple

from launch.planning.collectives import Transfer
from launch.planning.network import Seconds, Wiring, transfer_seconds


class Work(NamedTuple):
    """What one chip does in one step; `slowdown` multiplies the compute term (a pipeline's bubble)."""

    matmul_flops: float
    kernel_flops: float
    hbm_bytes: float
    transfers: tuple[Transfer, ...]
    slowdown: float = 1.0
    host_bytes: float = 0.0  # to the host's memory and back
    notes: tuple[str, ...] = ()


class Efficiency(NamedTuple):
    """Shares of the data sheet's figures that programs reach, the same for all chips and programs. `overlap`
    is the share of the network's time that is hidden behind products.
    """

    matmul: float
    kernel: float
    hbm: float
    network: float
    overlap: float


# Fitted to the rows of published.py; near these values the error hardly changes (docs/planning.md). `hbm` is
# assumed, because none of the rows is limited by it.
EFFICIENCY = Efficiency(matmul=0.86, kernel=0.25, hbm=0.85, network=0.5, overlap=0.4)


class Estimate(NamedTuple):
    """Seconds of a step and its terms; `exposed_s` is network time that is not hidden, `host_s` the time of
    offloads.
    """

    step_s: float
    compute_s: float
    hbm_s: float
    network: Seconds
    exposed_s: float
    host_s: float


def estimate(work: Work, wiring: Wiring, efficiency: Efficiency = EFFICIENCY) -> Estimate:
    """Products and HBM traffic overlap, so the longer of them counts; the network time that products do not
    hide, and the time of offloads, are added.
    """
    chip = wiring.target.chip

    # The FLOPs that would take this time at the chip's full rate.
    full_rate_flops = work.matmul_flops / efficiency.matmul + work.kernel_flops / efficiency.kernel
    # The bubble of a pipeline makes computing longer, not the traffic.
    compute_s = full_rate_flops / chip.bf16_flops * work.slowdown
    hbm_s = work.hbm_bytes / (chip.hbm_bandwidth * efficiency.hbm)
    network = network_seconds(work.transfers, wiring, efficiency)
    total = network.inner + network.outer

    # No more can be hidden than the time of the products.
    exposed_s = total - min(efficiency.overlap * total, compute_s)
    # / 2: the link is full duplex, so both directions move at the same time.
    host_s = work.host_bytes / 2 / chip.host_bandwidth
    return Estimate(
        max(compute_s, hbm_s) + exposed_s + host_s, compute_s, hbm_s, network, exposed_s, host_s
    )


def network_seconds(
    transfers: Sequence[Transfer], wiring: Wiring, efficiency: Efficiency = EFFICIENCY
) -> Seconds:
    """The time of all transfers, one after another, because collectives of a chip share its links."""
    times = [transfer_seconds(wiring, transfer) for transfer in transfers]
    return Seconds(
        sum(seconds.inner for seconds in times) / efficiency.network,
        sum(seconds.outer for seconds in times) / efficiency.network,
    )
