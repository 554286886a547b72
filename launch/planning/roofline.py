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
    host_bytes: float = 0.0  # over the way to the host's memory, both directions
    notes: tuple[str, ...] = ()


class Efficiency(NamedTuple):
    """Shares of the sheet's figures that programs reach; the same for all chips and programs. `overlap` is
    the share of the network's time that hides behind products.
    """

    matmul: float
    kernel: float
    hbm: float
    network: float
    overlap: float


# Fitted to the rows of published.py, where the errors are flat around them (docs/planning.md); no row there
# leans on hbm, which is assumed.
EFFICIENCY = Efficiency(matmul=0.86, kernel=0.25, hbm=0.85, network=0.5, overlap=0.4)


class Estimate(NamedTuple):
    """Seconds of a step and its terms; `exposed_s` is the part of the network that nothing hides, `host_s`
    what offloads take.
    """

    step_s: float
    compute_s: float
    hbm_s: float
    network: Seconds
    exposed_s: float
    host_s: float


def estimate(work: Work, wiring: Wiring, efficiency: Efficiency = EFFICIENCY) -> Estimate:
    """Products and HBM run beside one another, so the longer counts; what of the network products do not
    hide comes on top, and all that goes to the host's memory and back (both directions at one time).
    """
    chip = wiring.target.chip

    # FLOPs that the chip could have done in the time, had it reached its full rate
    full_rate_flops = work.matmul_flops / efficiency.matmul + work.kernel_flops / efficiency.kernel
    # A pipeline's bubble lengthens what the chip computes, not what it sends.
    compute_s = full_rate_flops / chip.bf16_flops * work.slowdown
    hbm_s = work.hbm_bytes / (chip.hbm_bandwidth * efficiency.hbm)
    network = network_seconds(work.transfers, wiring, efficiency)
    total = network.inner + network.outer

    # what hides can be no more than there are products to hide behind
    exposed_s = total - min(efficiency.overlap * total, compute_s)
    # The link is full duplex: both directions move at one time.
    host_s = work.host_bytes / 2 / chip.host_bandwidth
    return Estimate(
        max(compute_s, hbm_s) + exposed_s + host_s, compute_s, hbm_s, network, exposed_s, host_s
    )


def network_seconds(
    transfers: Sequence[Transfer], wiring: Wiring, efficiency: Efficiency = EFFICIENCY
) -> Seconds:
    """All transfers one after another."""
    # One after another: collectives of one chip share its links.
    each = [transfer_seconds(wiring, transfer) for transfer in transfers]
    return Seconds(
        sum(one.inner for one in each) / efficiency.network,
        sum(one.outer for one in each) / efficiency.network,
    )
