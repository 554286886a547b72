"""The loop of every phase: next batch, step, log, evaluate, save; stop on a signal, go back after a streak
of bad steps.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from model.api import Params
from trainer.batches.source import BatchSource
from trainer.checkpoints.checkpointer import Checkpointer
from trainer.checkpoints.rollback import Rollbacks
from trainer.cluster.signals import StopSignals
from trainer.ending import Stopped
from trainer.guard import Verdict
from trainer.records.profiler import Profiler
from trainer.records.recorder import Recorder, Step, timed
from trainer.state import TrainState


class LoopParts(NamedTuple):
    """What `train` calls at every step; built by `assemble.loop_parts`."""

    step: Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]]
    policy: Callable[[TrainState], Params]  # merges the parameters, for sources that ask for them
    source: BatchSource
    checkpointer: Checkpointer
    recorder: Recorder
    rollbacks: Rollbacks
    profiler: Profiler
    inspect: Callable[[int, TrainState, Any], None]  # looks for devices that compute wrongly
    evaluate: Callable[[int, TrainState], dict[str, float]]
    evaluate_every: int
    run: dict[str, Any]  # serialized, for the checkpoint


class Pause(NamedTuple):
    """What happens between a step and the next one."""

    stop: str | None  # the signal that asks for the end
    last: bool  # the phase's last step, whose evaluation comes after the loop
    save: bool
    evaluate: bool

    @property
    def wanted(self) -> bool:
        """Whether the step under way has to be waited for."""
        return self.save or self.evaluate


def train(parts: LoopParts, state: TrainState, *, steps: int) -> TrainState:
    """Train until `state.step` is `steps`; metrics are fetched one step late, so that the devices never
    wait for the host.

    Raises:
        Stopped: a signal came, and the state is saved.
        Diverged: loss or gradient norm is still NaN or infinite after `max_rollbacks` rollbacks.
    """
    number, recorder = int(state.step), parts.recorder
    with StopSignals() as signals:
        while number < steps:
            number += 1
            parts.profiler.before(number)
            with recorder.waiting() as waited:
                # A function, not parameters: merging an adapter costs memory, and shards never
                # ask for it.
                batch = parts.source.next(partial(parts.policy, state))
            # Before the step, which donates the arrays that are inspected.
            parts.inspect(number, state, batch)
            with timed() as called:
                state, metrics = parts.step(state, batch)
            step = Step(number, metrics, waited[0], called[0], parts.source.position.rows)
            # The verdict is on the step before: this one is still being computed.
            verdict = recorder.began(step, parts.checkpointer.poll(number))
            parts.rollbacks.passed(number)
            parts.profiler.after(number, metrics)

            pause = _due(parts, number, stop=signals.reached(), last=number == steps)
            # The order matters: first the verdict on this very step, since a state within a streak of bad
            # steps must not be saved as a good one; then going back, which makes a save pointless; then the
            # save.
            if pause.wanted:
                verdict = recorder.ended()
            if parts.rollbacks.wanted(verdict) and not pause.stop:
                state = _go_back(parts, state, verdict)
                number = int(state.step)
            elif pause.wanted:
                _pause(parts, state, verdict, pause)
            # A signal during the last step needs no special end: the phase is done and saved.
            if pause.stop and not pause.last:
                # Orbax writes in the background: leaving now would cut the save off.
                parts.checkpointer.wait()
                raise Stopped(pause.stop, number)
    return state


def _due(parts: LoopParts, number: int, *, stop: str | None, last: bool) -> Pause:
    """What is to be done after step `number`; all processes decide the same."""
    # `rollbacks` forgets that it wants a save when it is asked, so it is asked last.
    save = bool(stop) or last or parts.checkpointer.due(number) or parts.rollbacks.due()
    evaluate = parts.evaluate_every > 0 and number % parts.evaluate_every == 0
    return Pause(stop, last, save, evaluate and not last)


def _pause(parts: LoopParts, state: TrainState, verdict: Verdict, pause: Pause) -> None:
    numbers = {}
    if pause.evaluate:
        with parts.recorder.pausing("evaluate"):
            numbers = parts.evaluate(verdict.number, state)
    # Before the save: a checkpoint must not be newer than the log that belongs to it.
    parts.recorder.metrics.flush()
    must_save = bool(pause.stop) or pause.last  # nothing would be left to resume from otherwise
    healthy = not verdict.streak
    if must_save or (pause.save and healthy):
        with parts.recorder.pausing("checkpoint"):
            parts.checkpointer.save(state, parts.source.get_state(), parts.run, numbers=numbers)


def _go_back(parts: LoopParts, state: TrainState, verdict: Verdict) -> TrainState:
    with parts.recorder.pausing("restore"):
        state = parts.rollbacks.go_back(state, verdict)
    # After the restore: how far back it went is known only now.
    parts.recorder.back_to(int(state.step))
    return state
