"""Options of XLA for the training step, by the kind of chip."""

from model.sharding import device_kind

# Weights are gathered, and gradients reduced and scattered, on the sparse cores, beside the products. Without
# these a gather waits for itself alone, and a reduce-scatter over a whole torus becomes an all-reduce and a
# slice: twice the bytes. Found by compiling Llama-2-7B and 70B (docs/planning.md).
OFFLOADED = ("all_gather", "2d_all_gather", "3d_all_gather", "reduce_scatter", "nd_reduce_scatter")
SPARSE_CORES = {
    f"xla_tpu_enable_sparse_core_collective_offload_{name}": "true" for name in OFFLOADED
}
# It would turn a gather over a whole torus of 64 chips or more into an all-reduce of zeros: many times the
# bytes.
SPARSE_CORES["xla_disable_hlo_passes"] = "all_gather_decomposer"
WITH_SPARSE_CORES = ("TPU v5", "TPU v5p", "TPU v6 lite")  # v5p and v6e; v5e has none


def compiler_options() -> dict[str, str] | None:
    """Of the training step, for the devices of the current mesh; None where XLA's own choices stay."""
    return SPARSE_CORES if device_kind() in WITH_SPARSE_CORES else None
