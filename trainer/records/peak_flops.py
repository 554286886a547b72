"""Peak FLOP/s of a device: the denominator of model FLOPs utilisation (MFU)."""

import functools
import time

import jax
import jax.numpy as jnp

from trainer.records.data_sheets import PEAK_BF16


def peak_flops(device: jax.Device) -> float:
    """bf16 FLOP/s of one device, from the data sheet, or measured for CPUs and unknown kinds.

    Virtual CPU devices of a process share its cores, so each gets an equal share of the measured rate.
    """
    # The space ends the kind: the prefix "NVIDIA L4 " then matches an L4 but no L40.
    kind = f"{device.device_kind} "
    for prefix, flops in PEAK_BF16.items():
        if kind.startswith(prefix):
            return flops
    return measured_peak_flops(device) / n_sharers(device)


def n_sharers(device: jax.Device) -> int:
    """How many devices of this process compute on the same cores as this one, itself included."""
    return jax.local_device_count("cpu") if device.platform == "cpu" else 1


@functools.cache
def measured_peak_flops(device: jax.Device) -> float:
    """The best rate of a few large square bf16 products on this device, measured once per process.

    The best, not the mean: other processes may use the cores during some of them.
    """
    return max(matmul_rates(device, n_repeats=9))


def matmul_rates(device: jax.Device, *, n_repeats: int, size: int = 2048) -> list[float]:
    """FLOP/s of each of `n_repeats` bf16 products of two [size, size] matrices, after one that compiles."""
    one_device = jax.make_mesh((1,), ("alone",), devices=[device])
    with jax.set_mesh(one_device):
        x_DF = jnp.ones((size, size), jnp.bfloat16)
        product = jax.jit(jnp.matmul)
        product(x_DF, x_DF).block_until_ready()  # compiles, and is not timed
        # A product of two n × n matrices takes n³ multiplications and as many additions.
        return [2 * size**3 / _seconds(product, x_DF) for _ in range(n_repeats)]


def _seconds(product: jax.stages.Wrapped, x_DF: jax.Array) -> float:
    start = time.perf_counter()
    product(x_DF, x_DF).block_until_ready()
    return time.perf_counter() - start
