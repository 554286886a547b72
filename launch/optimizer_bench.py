"""Every optimizer on the same small run: loss against tokens and against time, and what its state weighs.

A Llama of 0.16 M parameters reads the bytes of Python's own standard library. Learning rates are the best of a sweep of 300 steps with
factors of about 2 between neighbours (`TUNED`); schedule, batches and all else are the same for all.
"""

import argparse
import json
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from data_pipeline.batch import TokenBatch
from model.adapt import Full
from model.architectures.llama import Llama
from model.execution import Precision
from model.sharding import letters_of, make_mesh, named
from trainer.objectives.next_token import NextToken
from trainer.state import new_state
from trainer.step import make_step

ARCHITECTURE = Llama(vocab_size=256, width=64, layers=2, heads=2, kv_heads=2, head_width=32, feed_forward_width=256, context=64)
BATCH_SIZE, SEQ_LEN, HELD_OUT_ROWS = 16, 64, 256
TEXT_BYTES, HELD_OUT_FRAC = 4_000_000, 0.05
SCHEDULE = {"type": "WarmupCosine", "warmup_steps": 20, "end_frac": 0.1}
TUNED = {
    "AdamW": {"peak_lr": 4e-3, "weight_decay": 0.1},
    "AdamW8bit": {"peak_lr": 4e-3, "weight_decay": 0.1},
    "Lion": {"peak_lr": 5e-4, "weight_decay": 1.0},
    "Adafactor": {"peak_lr": 4e-2, "weight_decay": 0.0},
    "Muon": {"peak_lr": 8e-3, "weight_decay": 0.1},
    "SOAP": {"peak_lr": 4e-3, "weight_decay": 0.1},
}


class Outcome(NamedTuple):
    """What one optimizer did: held-out nats a byte after a quarter, a half and all of the steps, the median step, the state's bytes."""

    quarter: float
    half: float
    whole: float
    step_s: float
    state_bytes: int


def bench_optimizers(args: argparse.Namespace) -> None:
    """Train with each, and print a line each; `args` has `steps` and `json`.

    Raises:
        ValueError: too few steps for four quarters.
    """
    if args.steps < 40:
        raise ValueError(f"--steps {args.steps}: must be at least 40, twice the warmup; raise it")
    found = {}
    with jax.set_mesh(make_mesh(jax.devices()[:1])):
        for name, optimizer in optimizers().items():
            found[name] = train(optimizer, steps=args.steps)
            if not args.json:
                print(line(name, found[name]) if len(found) > 1 else f"{header(args.steps)}\n{line(name, found[name])}", flush=True)
    if args.json:
        print(json.dumps({"steps": args.steps, **{name: outcome._asdict() for name, outcome in found.items()}}))


def optimizers() -> dict[str, Any]:
    """Name -> tuned optimizer, of all there are."""
    from data_pipeline.component import components_in
    from trainer.schedules import WarmupCosine

    schedule = WarmupCosine(warmup_steps=20, end_frac=0.1)
    return {name: kind(schedule=schedule, **TUNED[name]) for name, kind in components_in("trainer.optimizers").items()}


def train(optimizer: Any, *, steps: int, seed: int = 0) -> Outcome:
    """Train from scratch; every optimizer gets the same parameters and the same batches. Call under `jax.set_mesh`."""
    model, objective, tx = ARCHITECTURE.build(Precision(compute="float32")), NextToken(), optimizer.chain(steps)
    state = jax.jit(lambda key: new_state(model, Full(), tx, key))(jax.random.key(seed))
    step = make_step(model, objective, Full(), tx, micro_batches=1)
    text, held_out = text_bytes()
    held_out_batch = next(batches(held_out, rows=HELD_OUT_ROWS, seed=seed))

    @jax.jit
    def held_out_loss(params: Any) -> Any:
        denominators = objective.denominators(held_out_batch)
        return objective.loss({"policy": (model, params)}, held_out_batch, denominators, jax.random.key(0)).total

    times, losses = [], {}
    for number, batch in zip(range(1, steps + 1), batches(text, rows=BATCH_SIZE, seed=seed), strict=False):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch))
        times.append(time.perf_counter() - start)
        if number in (steps // 4, steps // 2, steps):
            losses[number] = float(held_out_loss(state.trainable))
    state_bytes = sum(x.nbytes for x in jax.tree.leaves(state.opt_state.inner))
    return Outcome(*losses.values(), step_s=float(np.median(times[2:])), state_bytes=state_bytes)


def text_bytes() -> tuple[np.ndarray, np.ndarray]:
    """(training, held-out) bytes of the standard library's modules in the order of their names; the last files are held out."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = np.frombuffer(b"".join(file.read_bytes() for file in files)[:TEXT_BYTES], np.uint8)
    cut = round(len(text) * (1 - HELD_OUT_FRAC))
    return text[:cut], text[cut:]


def batches(text: np.ndarray, *, rows: int, seed: int) -> Iterator[TokenBatch]:
    """Rows from anywhere in the text, without end."""
    rng, mesh = np.random.default_rng(seed), jax.sharding.get_mesh()
    ones_BL, positions_BL = np.ones((rows, SEQ_LEN), np.int32), np.broadcast_to(np.arange(SEQ_LEN, dtype=np.int32), (rows, SEQ_LEN))
    while True:
        first = rng.integers(0, len(text) - SEQ_LEN, rows)
        tokens = text[first[:, None] + np.arange(SEQ_LEN + 1)].astype(np.int32)
        batch = TokenBatch(tokens[:, :-1], tokens[:, 1:], ones_BL.astype(np.float32), positions_BL, ones_BL, 0 * ones_BL)
        yield TokenBatch(*(jax.device_put(x, named(mesh, letters_of(name))) for name, x in zip(batch._fields, batch, strict=True)))


def header(steps: int) -> str:
    """What the columns are."""
    quarter, half, whole = (f"{n * BATCH_SIZE * SEQ_LEN / 1e3:,.0f}k" for n in (steps // 4, steps // 2, steps))
    return f"{'nats a byte after tokens':24} {quarter:>9} {half:>9} {whole:>9} {'ms a step':>10} {'s':>7} {'state MB':>9}"


def line(name: str, outcome: Outcome) -> str:
    """An optimizer's figures below the header."""
    quarter, half, whole, step_s, state_bytes = outcome
    return f"{name:24} {quarter:9.3f} {half:9.3f} {whole:9.3f} {step_s * 1e3:10.1f} {state_bytes / 1e6:9.2f}"
