"""What a chip can do, by the makers' sheets: the roofs of the roofline."""

from functools import partial
from typing import NamedTuple

from trainer.records.data_sheets import PEAK_BF16

GIB = 2**30
TPU_SOURCE = (
    "Google Cloud's TPU pages v4, v5e, v5p, v6e (2026-11), "
    "memory as libtpu 0.0.52 lets a program have it"
)
GPU_SOURCE = (
    "NVIDIA's data sheets of A100 SXM 80GB, H100 SXM, H200 SXM; "
    "DGX networks of 200 and 400 Gb/s a GPU"
)


class Chip(NamedTuple):
    """One chip; bandwidths in bytes a second, of one direction where a link has two.

    `link_bandwidth` is one ICI link's; a chip has two of them an axis of its torus. A GPU has no torus: its
    links make one switch of `island` chips, and `link_bandwidth` is all that it can send there.
    `outer_bandwidth` is a chip's share of its host's network.
    """

    name: str
    platform: str
    bf16_flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float
    outer_bandwidth: float
    host_bandwidth: float  # to its host's memory, one direction
    n_dims: int  # of the torus; 0 for GPUs
    island: int  # most chips that ICI or NVLink connect
    # an axis closes to a ring when it is a multiple of this (with v4 and v5p: all axes of the slice)
    wrap: int
    source: str


tpu = partial(Chip, platform="tpu", source=TPU_SOURCE)
# eight GPUs are on one switch, which is no torus
gpu = partial(Chip, platform="gpu", source=GPU_SOURCE, n_dims=0, island=8, wrap=1)

# PEAK_BF16 is shared with MFU, so that a plan and a run are measured by one peak.
CHIPS = {
    chip.name: chip
    for chip in (
        tpu(
            name="v4",
            bf16_flops=PEAK_BF16["TPU v4"],
            hbm_bytes=int(30.75 * GIB),
            hbm_bandwidth=1.2e12,
            link_bandwidth=45e9,
            outer_bandwidth=3.1e9,
            host_bandwidth=15e9,
            n_dims=3,
            island=4096,
            wrap=4,
        ),
        tpu(
            name="v5e",
            bf16_flops=PEAK_BF16["TPU v5e"],
            hbm_bytes=int(15.75 * GIB),
            hbm_bandwidth=0.819e12,
            link_bandwidth=50e9,
            outer_bandwidth=3.125e9,
            host_bandwidth=15e9,
            n_dims=2,
            island=256,
            wrap=16,
        ),
        tpu(
            name="v5p",
            bf16_flops=PEAK_BF16["TPU v5"],
            hbm_bytes=int(95.73 * GIB),
            hbm_bandwidth=2.765e12,
            link_bandwidth=100e9,
            outer_bandwidth=6.25e9,
            host_bandwidth=15e9,
            n_dims=3,
            island=8960,
            wrap=4,
        ),
        tpu(
            name="v6e",
            bf16_flops=PEAK_BF16["TPU v6"],
            hbm_bytes=int(31.24 * GIB),
            hbm_bandwidth=1.638e12,
            link_bandwidth=100e9,
            outer_bandwidth=12.5e9,
            host_bandwidth=30e9,
            n_dims=2,
            island=256,
            wrap=16,
        ),
        gpu(
            name="a100",
            bf16_flops=PEAK_BF16["NVIDIA A100"],
            hbm_bytes=80 * 10**9,
            hbm_bandwidth=2.039e12,
            link_bandwidth=300e9,
            outer_bandwidth=25e9,
            host_bandwidth=32e9,
        ),
        gpu(
            name="h100",
            bf16_flops=PEAK_BF16["NVIDIA H100"],
            hbm_bytes=80 * 10**9,
            hbm_bandwidth=3.35e12,
            link_bandwidth=450e9,
            outer_bandwidth=50e9,
            host_bandwidth=64e9,
        ),
        gpu(
            name="h200",
            bf16_flops=PEAK_BF16["NVIDIA H200"],
            hbm_bytes=141 * 10**9,
            hbm_bandwidth=4.8e12,
            link_bandwidth=450e9,
            outer_bandwidth=50e9,
            host_bandwidth=64e9,
        ),
    )
}
ALIASES = {"trillium": "v6e", "v5litepod": "v5e", "v5": "v5p"}
