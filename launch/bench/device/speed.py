"""How fast the device multiplies, trains, decodes, saves and restores."""

import functools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from inference.decode import generate
from inference.sample import Greedy
from launch.bench.checkpoint import state_of_size
from launch.bench.device.models import llama
from launch.bench.device.rows import Check, Row, Skip, reason_of
from launch.bench.train import TrainShape, describe, figures, measure, shape_from
from launch.planning.analytic import Plan, memory_of_plan, outline_of
from model.architectures.llama_presets import PRESETS
from model.execution import Execution, Precision, Remat
from model.mesh import make_mesh
from model.sharding import AXES
from trainer.checkpoints.checkpointer import Checkpointer, Checkpoints
from trainer.records.data_sheets import PEAK_BF16
from trainer.records.peak_flops import matmul_rates

SEQ_LEN = 4096
USABLE_FRAC = 0.9  # of the device's memory, because the estimate from sizes is right within a tenth
N_ROUNDS = 5
PROMPT_TOKENS, NEW_TOKENS = 128, 128
# 2 GB take some seconds to write on a usual disk.
STATE_GB = 2.0


class Recipe(NamedTuple):
    """A way to train that needs less memory than the one before it."""

    params: str
    rule: str
    remat: str


# From the fastest to the one that needs the least memory: state and gradients take 16 bytes a parameter in
# float32 with AdamW, and about 6 in the last recipe.
RECIPES = (
    Recipe("float32", "AdamW", "none"),
    Recipe("float32", "AdamW", "projections"),
    Recipe("float32", "AdamW", "full"),
    Recipe("bfloat16", "AdamW", "full"),
    Recipe("bfloat16", "AdamW8bit", "full"),
)


def speed_checks(*, small: bool) -> Iterator[Check]:
    """Measurements, the ones that need most memory in processes of their own."""
    sizes = llama(small=True)
    yield Check(
        "matmul, bfloat16",
        # 8192² x 8192²: 1.1 TFLOP, more than a millisecond, so that the start does not count.
        functools.partial(measure_matmul, 256 if small else 8192),
        compares=False,
    )
    if small:
        run = functools.partial(
            measure_training, "train tiny", sizes, seq_len=32, rows_per_device=1
        )
        yield Check("train tiny", run, compares=False)
    else:
        for name, preset, n_rows in (
            # (row of the table, preset, rows of tokens a device)
            ("train 1B", "llama3_2_1b", 4),
            ("train 8B", "llama3_1_8b", 2),
        ):
            run = functools.partial(
                measure_training, name, PRESETS[preset], seq_len=SEQ_LEN, rows_per_device=n_rows
            )
            yield Check(name, run, compares=False, alone=True)
    decoder = sizes if small else PRESETS["llama3_2_1b"]
    # Batch 1 is limited by reading the weights; 32 is closer to serving.
    for batch_size in (32,) if small else (1, 32):
        run = functools.partial(
            measure_decoding,
            decoder,
            batch_size,
            prompt=8 if small else PROMPT_TOKENS,
            new=4 if small else NEW_TOKENS,
        )
        yield Check(f"decode, batch {batch_size}", run, compares=False)
    run = functools.partial(save_and_restore, gigabytes=0.001 if small else STATE_GB)
    yield Check("save and restore", run, compares=True)


def measure_matmul(size: int) -> Row:
    """The rate of large square products on the first device, beside its data sheet's."""
    device = jax.devices()[0]
    tflops = statistics.median(matmul_rates(device, n_repeats=15, size=size)) / 1e12
    # In the table's order, longer names first: `TPU v5 lite` also begins with `TPU v5`.
    peaks = []
    for prefix, peak in PEAK_BF16.items():
        if f"{device.device_kind} ".startswith(prefix):
            peaks.append(peak / 1e12)
    note = f"{size}² x {size}²"
    if peaks:
        note += f", {tflops / peaks[0]:.0%} of the data sheet's {peaks[0]:.0f} TFLOP/s"
    return Row("matmul, bfloat16", "measured", {"tflops": tflops}, note)


def measure_training(name: str, architecture: Any, *, seq_len: int, rows_per_device: int) -> Row:
    """Training steps over all devices with the first recipe that fits their memory.

    Raises:
        Skip: no recipe fits.
    """
    batch_size = rows_per_device * len(jax.devices())
    limit = device_bytes()
    tried = []
    for recipe in RECIPES:
        shape = shape_of_recipe(recipe, architecture, seq_len=seq_len, batch_size=batch_size)
        wanted = estimated_bytes(shape)
        # A CPU does not tell its memory (limit = 0), so the first recipe is tried.
        if limit and wanted > USABLE_FRAC * limit:
            tried.append(f"{' '.join(recipe)} needs {wanted / 1e9:.0f} GB")
            continue
        try:
            return _train_row(name, shape, recipe)
        except jax.errors.JaxRuntimeError as error:
            # Any other error becomes a failed row.
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            tried.append(f"{' '.join(recipe)} ran {reason_of(error)[:80]}")
    # The last two need the least, so they show how much memory is missing.
    raise Skip(f"of {limit / 1e9:.0f} GB on a device, {'; '.join(tried[-2:])}")


def shape_of_recipe(
    recipe: Recipe, architecture: Any, *, seq_len: int, batch_size: int
) -> TrainShape:
    """A shape of the bench `train`."""
    return shape_from(
        architecture,
        batch_size=batch_size,
        seq_len=seq_len,
        rule=recipe.rule,
        params=recipe.params,
        execution=Execution(remat=Remat(preset=recipe.remat)),
    )


def estimated_bytes(shape: TrainShape) -> int:
    """The most that a device holds during a step, from sizes alone; nothing is compiled."""
    sizes = outline_of(shape.run())
    # All devices shard parameters and batch; every other axis is 1.
    axes = dict.fromkeys(AXES, 1) | {"fsdp": len(jax.devices())}
    return memory_of_plan(
        sizes, Plan(axes, shape.batch_size, shape.micro_batches, shape.execution)
    ).peak


def device_bytes() -> int:
    """Memory of the smallest device here; 0 where devices do not count theirs, as CPUs do not."""
    # Local devices: others cannot be asked for their memory.
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in jax.local_devices()]
    return min(limits)


def _train_row(name: str, shape: TrainShape, recipe: Recipe) -> Row:
    mesh = shape.mesh.make()
    with jax.set_mesh(mesh):
        sentence, flops_per_token = describe(shape, mesh.size)
        rounds = measure(shape, mesh, n_rounds=N_ROUNDS)
    tokens = shape.batch_size * shape.seq_len
    numbers = figures(rounds, tokens=tokens, flops_per_token=flops_per_token, n_devices=mesh.size)
    shown = {
        "mfu": numbers["mfu"],
        "tokens_per_s": numbers["tokens_per_s"],
        "step_s": numbers["step_s"],
        "tflops": numbers["flops_per_s"] / 1e12,
        "matmul_tflops": numbers["matmul_flops_per_s"] / 1e12,
        "peak_gb": numbers["peak_bytes"] / 1e9,
    }
    how = f"{recipe.params} parameters, {recipe.rule}, remat {recipe.remat}"

    return Row(name, "measured", shown, f"{sentence}; {how}")


def measure_decoding(architecture: Any, batch_size: int, *, prompt: int, new: int) -> Row:
    """Greedy tokens from random weights in bfloat16, the reading of the prompts included."""
    mesh = make_mesh(fsdp=len(jax.devices()))
    model = architecture.build(Precision(params="bfloat16"))
    tokens = np.random.default_rng(0).integers(0, architecture.vocab_size, (batch_size, prompt))
    prompts = tokens.tolist()
    options = {
        "sampler": Greedy(),
        "context": prompt + new,
        "max_tokens": new,
        # No id ends a text, so that every row has all its new tokens.
        "stop_ids": (),
        "key": jax.random.key(0),
    }
    with jax.set_mesh(mesh):
        # Random weights: the speed does not depend on their values.
        params = jax.jit(model.init)(jax.random.key(0))
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            written = generate(model, params, prompts, **options)
            seconds.append(time.perf_counter() - start)
    # Without the first call, which compiled. The faster of two, because other work on the machine
    # only makes a call slower.
    fastest_s = min(seconds[1:])
    n_tokens = sum(map(len, written))
    numbers = {"tokens_per_s": n_tokens / fastest_s, "ms_per_token": 1e3 * fastest_s / new}
    note = f"{type(architecture).__name__} of width {architecture.width}, {prompt} + {new} tokens a row"

    return Row(f"decode, batch {batch_size}", "measured", numbers, note)


def save_and_restore(*, gigabytes: float) -> Row:
    """A state written by the trainer's checkpointer and read back: it must be the same, bit for bit."""
    mesh = make_mesh(fsdp=len(jax.devices()))
    with jax.set_mesh(mesh), tempfile.TemporaryDirectory(prefix="device-check-") as folder:
        state = state_of_size(gigabytes, mesh)
        jax.block_until_ready(state)
        n_bytes = sum(x.nbytes for x in jax.tree.leaves((state.trainable, state.opt_state)))
        checkpointer = Checkpointer(Path(folder), Checkpoints(every_steps=1))
        start = time.perf_counter()
        checkpointer.save(state, {}, {})
        checkpointer.wait()
        save_s = time.perf_counter() - start
        # What a starting process has when it restores: shapes and layouts without arrays.
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        start = time.perf_counter()
        # Step 0, as `state_of_size` makes it.
        restored = jax.block_until_ready(checkpointer.restore(0, like))
        restore_s = time.perf_counter() - start
        checkpointer.close()
        saved_leaves = jax.tree.leaves((state.trainable, state.opt_state))
        restored_leaves = jax.tree.leaves((restored.trainable, restored.opt_state))
        n_different = 0
        for saved, back in zip(saved_leaves, restored_leaves, strict=True):
            # As bytes: == would take -0.0 for 0.0, and a NaN for another one.
            n_different += np.asarray(saved).tobytes() != np.asarray(back).tobytes()

    numbers = {"gb": n_bytes / 1e9, "save_s": save_s, "restore_s": restore_s}
    if n_different:
        note = f"{n_different} arrays differ from what was saved"
        return Row("save and restore", "failed", numbers, note)
    note = "the same bits; the files were in the system's cache"
    return Row("save and restore", "passed", numbers, note)
