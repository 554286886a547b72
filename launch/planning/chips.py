"""What a chip can do, by the makers' sheets: the roofs of the roofline."""

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


# PEAK_BF16 is shared with MFU, so that a plan and a run are measured by one peak.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            "v4",
            "tpu",
            PEAK_BF16["TPU v4"],
            int(30.75 * GIB),
            1.2e12,
            45e9,
            3.1e9,
            15e9,
            3,
            4096,
            4,
            TPU_SOURCE,
        ),
        Chip(
            "v5e",
            "tpu",
            PEAK_BF16["TPU v5e"],
            int(15.75 * GIB),
            0.819e12,
            50e9,
            3.125e9,
            15e9,
            2,
            256,
            16,
            TPU_SOURCE,
        ),
        Chip(
            "v5p",
            "tpu",
            PEAK_BF16["TPU v5"],
            int(95.73 * GIB),
            2.765e12,
            100e9,
            6.25e9,
            15e9,
            3,
            8960,
            4,
            TPU_SOURCE,
        ),
        Chip(
            "v6e",
            "tpu",
            PEAK_BF16["TPU v6"],
            int(31.24 * GIB),
            1.638e12,
            100e9,
            12.5e9,
            30e9,
            2,
            256,
            16,
            TPU_SOURCE,
        ),
        Chip(
            "a100",
            "gpu",
            PEAK_BF16["NVIDIA A100"],
            80 * 10**9,
            2.039e12,
            300e9,
            25e9,
            32e9,
            0,
            8,
            1,
            GPU_SOURCE,
        ),
        Chip(
            "h100",
            "gpu",
            PEAK_BF16["NVIDIA H100"],
            80 * 10**9,
            3.35e12,
            450e9,
            50e9,
            64e9,
            0,
            8,
            1,
            GPU_SOURCE,
        ),
        Chip(
            "h200",
            "gpu",
            PEAK_BF16["NVIDIA H200"],
            141 * 10**9,
            4.8e12,
            450e9,
            50e9,
            64e9,
            0,
            8,
            1,
            GPU_SOURCE,
        ),
    )
}
ALIASES = {"trillium": "v6e", "v5litepod": "v5e", "v5": "v5p"}
