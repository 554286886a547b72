"""The real training step on one made-up batch, timed next to matrix products."""

import time
from typing import NamedTuple

import jax
import numpy as np

from data_pipeline.batch import TokenBatch
from launch.bench.shapes import TrainShape
from model.adapt import Full
from model.sharding import letters_of, named
from model.size import flops_per_token_of, n_matmul_params, n_params
from trainer.objectives.next_token import NextToken
from trainer.offload import at_rest
from trainer.records.memory import memory_row, peak_host_bytes
from trainer.records.peak_flops import matmul_rates, n_sharers
from trainer.state import new_state
from trainer.step import make_step

STEPS = 1000  # length of the schedule; it costs nothing


class Round(NamedTuple):
    """One step and the median of five products beside it, because other work comes and goes; FLOP/s of one
    device's share.
    """

    step_s: float
    matmul_flops: float


def describe(shape: TrainShape, n_devices: int) -> tuple[str, float]:
    """A sentence about the shape, and its FLOPs a token."""
    params = jax.eval_shape(shape.architecture.build(shape.precision).init, jax.random.key(0))
    flops = flops_per_token_of(shape.architecture, params, length=shape.seq_len)
    sizes = f"{n_params(params) / 1e6:.1f} M parameters ({n_matmul_params(params) / 1e6:.1f} M in products)"
    rows = f"{shape.batch_size} × {shape.seq_len} tokens"
    how = f"{shape.precision.compute}, {type(shape.optimizer.rule).__name__}, {n_devices} × {jax.devices()[0].device_kind}"
    return (
        f"{type(shape.architecture).__name__}, {sizes}, {rows}, {how}; {flops / 1e6:.1f} MFLOP a token",
        flops,
    )


def measure(shape: TrainShape, mesh: jax.sharding.Mesh, *, n_rounds: int) -> list[Round]:
    """Rounds after one that compiles and one that warms up. Call under `jax.set_mesh(mesh)`."""
    model, tx = shape.architecture.build(shape.precision, shape.execution), shape.optimizer.chain(STEPS)
    offload = shape.execution.offload
    state = jax.jit(lambda key: at_rest(new_state(model, Full(), tx, key), offload))(jax.random.key(0))
    step = make_step(model, NextToken(), Full(), tx, micro_batches=shape.micro_batches, offload=offload)
    batch, device = made_up_batch(shape, mesh), mesh.devices.flat[0]
    rounds = []
    for _ in range(n_rounds + 2):
        start = time.perf_counter()
        state, metrics = jax.block_until_ready(step(state, batch))
        step_s = time.perf_counter() - start
        rounds.append(Round(step_s, float(np.median(matmul_rates(device, n_repeats=5))) / n_sharers(device)))
    return rounds[2:]


def made_up_batch(shape: TrainShape, mesh: jax.sharding.Mesh) -> TokenBatch:
    """Rows of one document of random tokens each, all of them targets."""
    size = (shape.batch_size, shape.seq_len)
    tokens_BL = np.random.default_rng(0).integers(0, shape.architecture.vocab_size, size).astype(np.int32)
    ones_BL, positions_BL = (
        np.ones(size, np.int32),
        np.broadcast_to(np.arange(shape.seq_len, dtype=np.int32), size),
    )
    batch = TokenBatch(
        tokens_BL, np.roll(tokens_BL, -1, 1), ones_BL.astype(np.float32), positions_BL, ones_BL, 0 * ones_BL
    )
    return TokenBatch(
        *(
            jax.device_put(x, named(mesh, letters_of(name)))
            for name, x in zip(batch._fields, batch, strict=True)
        )
    )


def figures(rounds: list[Round], *, tokens: int, flops_per_token: float, n_devices: int) -> dict[str, float]:
    """Medians; MFU is the ratio of the two medians; `peak_bytes` is the most memory that was ever in use,
    of a device or of the process.
    """
    step_s, matmul_flops = np.median(np.array(rounds), 0)
    return {
        "step_s": float(step_s),
        "tokens_per_s": float(tokens / step_s),
        "flops_per_s": float(tokens * flops_per_token / step_s),
        "matmul_flops_per_s": float(matmul_flops * n_devices),
        "mfu": float(tokens * flops_per_token / step_s / (matmul_flops * n_devices)),
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int:
    """Of the fullest device, where devices count their own memory; else of this process."""
    return int(memory_row().get("memory/device_peak_bytes") or peak_host_bytes())


def lines(found: dict[str, float], rounds: list[Round], n_devices: int) -> list[str]:
    """The figures for people, with the range of what was measured in brackets."""
    step_s, matmul_flops = np.array(rounds).T
    low, high = (edge(matmul_flops) * n_devices / 1e9 for edge in (np.min, np.max))
    return [
        f"step    {found['step_s']:9.3f} s        ({np.min(step_s):.3f} to {np.max(step_s):.3f})",
        f"speed   {found['tokens_per_s']:9,.0f} tokens/s",
        f"        {found['flops_per_s'] / 1e9:9,.0f} GFLOP/s",
        f"matmul  {found['matmul_flops_per_s'] / 1e9:9,.0f} GFLOP/s  ({low:,.0f} to {high:,.0f}), square, bfloat16, on the same devices",
        f"MFU     {found['mfu']:9.1%}",
        f"memory  {found['peak_bytes'] / 2**30:9.2f} GiB at most",
    ]
