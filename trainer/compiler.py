"""Options of XLA for the training step, by the kind of chip."""

from model.mesh import device_kind

# These run all-gathers of weights and reduce-scatters of gradients on the SparseCores, while the TensorCores
# multiply. Without them libtpu turns the reduce-scatter into an all-reduce and a slice, twice the bytes: seen
# in the compiled steps of Llama-2-7B and 70B (docs/planning.md).
OFFLOADED = ("all_gather", "2d_all_gather", "3d_all_gather", "reduce_scatter", "nd_reduce_scatter")
SPARSE_CORES = {
    f"xla_tpu_enable_sparse_core_collective_offload_{name}": "true" for name in OFFLOADED
}
# This pass would turn an all-gather over a whole torus of 64 chips or more into an all-reduce of arrays
# padded with zeros, which sends many times the bytes.
SPARSE_CORES["xla_disable_hlo_passes"] = "all_gather_decomposer"
# `device_kind` of v5p (both names occur) and v6e; v5e, which is "TPU v5 lite", has no SparseCores
WITH_SPARSE_CORES = ("TPU v5", "TPU v5p", "TPU v6 lite")


def compiler_options() -> dict[str, str] | None:
    """XLA's options for the training step on the current mesh's devices; None = XLA's defaults."""
    return SPARSE_CORES if device_kind() in WITH_SPARSE_CORES else None
