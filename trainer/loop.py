"""The loop of every phase: next batch, step, log, evaluate, save; stop on a signal, go back after a streak
of bad steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from trainer.batches.source import BatchSource
from trainer.checkpoints.checkpointer import Checkpointer
from trainer.checkpoints.rollback import Rollbacks
from trainer.cluster.signals import StopSignals
from trainer.guard import Stopped, Verdict
from trainer.records.profiler import Profiler
from trainer.records.recorder import Recorder, Step, timed
from trainer.state import TrainState


class Parts(NamedTuple):
    """What the loop turns."""

    step: Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]]
    source: BatchSource
    checkpointer: Checkpointer
    recorder: Recorder
    rollbacks: Rollbacks
    profiler: Profiler
    inspect: Callable[[int, TrainState, Any], None]  # looks for devices that compute wrongly
    evaluate: Callable[[int, TrainState], dict[str, float]]
    evaluate_every: int
    run: dict[str, Any]  # serialized, for the checkpoint


def train(parts: Parts, state: TrainState, *, steps: int) -> TrainState:
    """Train until `state.step` is `steps`; metrics are fetched one step late, so that the devices never
    wait for the host.

    Raises:
        Stopped: a signal came, and the state is saved. Diverged: the loss stays no number.
    """
    number, recorder = int(state.step), parts.recorder
    with StopSignals() as signals:
        while number < steps:
            number += 1
            parts.profiler.before(number)
            with recorder.waiting() as waited:
                batch = parts.source.next(state.trainable)
            parts.inspect(number, state, batch)
            with timed() as called:
                state, metrics = parts.step(state, batch)
            step = Step(number, metrics, waited[0], called[0], parts.source.consumed)
            verdict = recorder.began(step, parts.checkpointer.poll(number))
            parts.rollbacks.passed(number)
            parts.profiler.after(number, metrics)
            stop, last = signals.reached(), number == steps
            save = bool(stop) or last or parts.checkpointer.due(number) or parts.rollbacks.due()
            evaluate = not last and parts.evaluate_every > 0 and number % parts.evaluate_every == 0
            if save or evaluate:
                verdict = recorder.ended()
            if parts.rollbacks.wanted(verdict) and not stop:
                state = _go_back(parts, state, verdict)
                number = int(state.step)
            elif save or evaluate:
                _pause(
                    parts,
                    state,
                    verdict,
                    save=bool(stop) or last or save and not verdict.streak,
                    evaluate=evaluate,
                )
            if stop and not last:
                parts.checkpointer.wait()
                raise Stopped(stop, number)
    return state


def _pause(parts: Parts, state: TrainState, verdict: Verdict, *, save: bool, evaluate: bool) -> None:
    """What happens between two steps now and then; within a streak of bad steps nothing is saved that need
    not be.
    """
    numbers = {}
    if evaluate:
        with parts.recorder.pausing("evaluate"):
            numbers = parts.evaluate(verdict.number, state)
    parts.recorder.metrics.flush()
    if save:
        with parts.recorder.pausing("checkpoint"):
            parts.checkpointer.save(state, parts.source.get_state(), parts.run, numbers=numbers)


def _go_back(parts: Parts, state: TrainState, verdict: Verdict) -> TrainState:
    with parts.recorder.pausing("restore"):
        state = parts.rollbacks.go_back(state, verdict)
    parts.recorder.back_to(int(state.step))
    return state
