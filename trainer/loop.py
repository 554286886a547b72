"""The loop of every phase: next batch, step, log, save, stop on a signal."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from trainer.checkpoint import Checkpointer
from trainer.guard import Diverged, Stopped, StopSignals
from trainer.metrics import MetricsWriter
from trainer.source import BatchSource
from trainer.state import TrainState


class Parts(NamedTuple):
    """What the loop turns."""

    step: Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]]
    source: BatchSource
    checkpointer: Checkpointer
    metrics: MetricsWriter
    learning_rate: Callable[[int], Any]
    evaluate: Callable[[TrainState], dict[str, float]]
    evaluate_every: int
    tokens_per_step: int
    peak_tokens_per_s: float  # what the devices would reach at full rate; the denominator of MFU
    run: dict[str, Any]  # serialized, for the checkpoint


class Clock:
    """Seconds since it was last asked: what the host does besides steps (saving, evaluating) is taken out by asking."""

    def __init__(self):
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        before, self._last = self._last, time.perf_counter()
        return self._last - before


def train(parts: Parts, state: TrainState, *, steps: int, advance: Callable[..., None]) -> TrainState:
    """Train until `state.step` is `steps`; metrics are fetched one step late, so that the devices never wait for the host.

    Raises:
        Stopped: a signal came, and the state is saved. Diverged: the loss is no number.
    """
    pending, clock = None, Clock()
    with StopSignals() as signals:
        for number in range(int(state.step) + 1, steps + 1):
            waiting = Clock()
            batch = parts.source.next(state.trainable)
            data_wait_s = waiting.lap()
            state, metrics = parts.step(state, batch)
            if pending:
                _log(parts, *pending, clock, advance)
            pending = number, metrics, data_wait_s
            stop, last = signals.reached(), number == steps
            save = stop or last or parts.checkpointer.due(number)
            evaluate = not last and parts.evaluate_every and number % parts.evaluate_every == 0
            if save or evaluate:
                _log(parts, *pending, clock, advance)
                pending = None
                _pause(parts, state, number, save=bool(save), evaluate=bool(evaluate))
                clock.lap()
            if stop and not last:
                parts.checkpointer.wait()
                raise Stopped(stop, number)
    return state


def _pause(parts: Parts, state: TrainState, number: int, *, save: bool, evaluate: bool) -> None:
    """What happens between two steps now and then."""
    if evaluate:
        parts.metrics.write(number, parts.evaluate(state))
    parts.metrics.flush()
    if save:
        parts.checkpointer.save(state, parts.source.get_state(), parts.run)


def _log(parts: Parts, number: int, metrics: dict[str, Any], data_wait_s: float, clock: Clock, advance: Callable[..., None]) -> None:
    """Write the row of a step that has ended; its time runs from the arrival of the metrics before it to that of its own."""
    sums = jax.device_get(metrics)
    step_s = clock.lap()
    row = {(name if "/" in name else f"train/{name}"): float(total) / max(float(weight), 1e-9) for name, (total, weight) in sums.items()}
    for name in ("loss/train", "optimizer/grad_norm"):
        if not math.isfinite(row[name]):
            raise Diverged(f"{name}={row[name]} at step {number}; lower optimizer.peak_lr or look at the data of this step")
    rate = parts.tokens_per_step / step_s
    row |= {
        "optimizer/learning_rate": float(parts.learning_rate(number - 1)),
        "time/step_s": step_s,
        "time/data_wait_s": data_wait_s,
        "throughput/tokens_per_s": rate,
        "throughput/mfu": rate / parts.peak_tokens_per_s,
    }
    parts.metrics.write(number, row)
    advance(1, f"loss {row['loss/train']:.3f}, {rate:,.0f} tokens/s")
