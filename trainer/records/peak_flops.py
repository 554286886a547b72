"""What the hardware could do: the denominator of model FLOPs utilisation (MFU)."""

import functools
import time

import jax
import jax.numpy as jnp

# Dense bf16 products with f32 sums, FLOP/s of one JAX device, from the makers' data sheets; the first prefix
# that fits counts. TPU v2 and v3 show each core as a device, TPU7x each of a chip's two dies.
PEAK_BF16 = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "TPU7x": 1153.5e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA GB200": 2500e12,
    "NVIDIA L4 ": 121e12,
    "NVIDIA L40S": 362e12,
}


def peak_flops(device: jax.Device) -> float:
    """bf16 FLOP/s of one device: of the data sheet, or measured where there is none (CPUs, unknown kinds).

    Virtual CPU devices of a process share its cores: each counts as its part of the measured rate.
    """
    kind = f"{device.device_kind} "
    known = [flops for prefix, flops in PEAK_BF16.items() if kind.startswith(prefix)]
    if known:
        return known[0]
    return measured_peak_flops(device) / n_sharers(device)


def n_sharers(device: jax.Device) -> int:
    """How many devices of this process draw on the cores that this one draws on."""
    return jax.local_device_count("cpu") if device.platform == "cpu" else 1


@functools.cache
def measured_peak_flops(device: jax.Device) -> float:
    """The best rate of a few large square bf16 products on this device, once a process; other work may hold
    its cores meanwhile.
    """
    return max(matmul_rates(device, n_repeats=9))


def matmul_rates(device: jax.Device, *, n_repeats: int, size: int = 2048) -> list[float]:
    """FLOP/s of each of `n_repeats` bf16 products of two `size`² matrices, after one that does not count."""
    alone = jax.make_mesh((1,), ("alone",), devices=[device])
    with jax.set_mesh(alone):
        x_DF = jnp.ones((size, size), jnp.bfloat16)
        product = jax.jit(jnp.matmul)
        product(x_DF, x_DF).block_until_ready()
        return [2 * size**3 / _seconds(product, x_DF) for _ in range(n_repeats)]


def _seconds(product: jax.stages.Wrapped, x_DF: jax.Array) -> float:
    start = time.perf_counter()
    product(x_DF, x_DF).block_until_ready()
    return time.perf_counter() - start
