"""Options of the compiler for the training step, by the kind of chip; found by compiling Llama-2-7B and 70B
(docs/planning.md).
"""

from model.sharding import device_kind

SPARSE_CORE = "xla_tpu_enable_sparse_core_collective_offload_"
ON_SPARSE_CORES = {
    # Weights are gathered, and gradients reduced and scattered, beside the products. Without these a gather
    # waits for itself alone, and a reduce-scatter over a whole torus is made an all-reduce and a slice: twice
    # the bytes.
    **dict.fromkeys(
        (f"{SPARSE_CORE}{what}" for what in ("all_gather", "2d_all_gather", "3d_all_gather")), "true"
    ),
    **dict.fromkeys((f"{SPARSE_CORE}{what}" for what in ("reduce_scatter", "nd_reduce_scatter")), "true"),
    # It would make a gather over a whole torus of 64 chips or more an all-reduce of zeros: many times the
    # bytes.
    "xla_disable_hlo_passes": "all_gather_decomposer",
}
BY_KIND = {
    "TPU v5": ON_SPARSE_CORES,
    "TPU v5p": ON_SPARSE_CORES,
    "TPU v6 lite": ON_SPARSE_CORES,
}  # v5p and v6e; v5e has no such cores


def compiler_options() -> dict[str, str] | None:
    """Those for the devices of the current mesh; None where the compiler's own choices stay."""
    return BY_KIND.get(device_kind())
