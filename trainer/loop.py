"""The loop of every phase: batch, step, log, evaluate, save; stop on a signal, go back after bad steps."""

from functools import partial

from trainer.batches.source import BatchSource
from trainer.checkpoints.rollback import Rollbacks
from trainer.cluster.signals import StopSignals
from trainer.ending import Stopped
from trainer.evals.measure import Measures
from trainer.inspection import make_inspection
from trainer.phase import Phase
from trainer.records.recorder import Recorder
from trainer.records.results import write_findings
from trainer.state import TrainState
from trainer.step import TrainStep


def train(
    phase: Phase,
    source: BatchSource,
    recorder: Recorder,
    measures: Measures,
    *,
    step: TrainStep,
    state: TrainState,
    steps: int,
) -> TrainState:
    """Make steps until `state.step` is `steps`; the last state.

    `phase` is a Run on devices, `measures` its evaluations. `recorder` fetches the metrics of a step while
    the next one runs, so that the devices never wait for the host, and gives the guard's verdict on it.

    Raises:
        Stopped: a signal came, and the state is saved.
        Diverged: loss or gradient norm is still NaN or infinite after `max_rollbacks` rollbacks.
    """
    checkpointer, evaluate_every = phase.checkpointer, phase.run.evaluate_every
    number = int(state.step)
    rollbacks = Rollbacks(phase, source, first=number)
    inspect = make_inspection(phase)  # looks for devices that compute wrongly
    with StopSignals() as signals:
        while number < steps:
            number += 1
            with recorder.waiting(number):
                # A function, not parameters: merging an adapter costs memory, and shards never ask for it.
                batch = source.next(partial(phase.merged, state))
            # Before the step, which donates the arrays that are inspected.
            inspect(number, state, batch)
            with recorder.dispatching():
                state, metrics = step(state, batch)
            # The verdict is on the step before: this one is still being computed.
            verdict = recorder.began(number, metrics, checkpointer.poll(number))
            rollbacks.passed(number)

            stop = signals.reached()  # the signal's name, in all processes after the same step
            last = number == steps
            # `rollbacks` forgets that it wants a save when it is asked, so it is asked last.
            planned = last or checkpointer.due(number) or rollbacks.due()
            save = planned or bool(stop)  # nothing would be left to resume from otherwise
            # The last evaluation comes after the loop.
            evaluate = evaluate_every > 0 and number % evaluate_every == 0 and not last

            # In this order: the verdict on this very step, since a state within a streak of bad steps must
            # not be saved as a good one; going back, which makes a save pointless; the save.
            if save or evaluate:
                verdict = recorder.ended(planned=planned or evaluate)
            if rollbacks.wanted(verdict) and not stop:
                with recorder.pausing("restore"):
                    state = rollbacks.go_back(state, verdict)
                number = int(state.step)
                recorder.back_to(number)
                continue
            numbers = {}
            if evaluate:
                with recorder.pausing("evaluate"):
                    numbers = write_findings(recorder.metrics, number, measures(state))
            if save or evaluate:
                # Before the save: a checkpoint must not be newer than the log that belongs to it.
                recorder.metrics.flush()
            if stop or last or (save and not verdict.streak):
                with recorder.pausing("checkpoint"):
                    # The run is saved with it: a resumed phase is compared with that (identity.py).
                    checkpointer.save(state, source.get_state(), phase.serialized, numbers=numbers)
            # A signal during the last step needs no special end: the phase is done and saved.
            if stop and not last:
                # Orbax writes in the background: leaving now would cut the save off.
                checkpointer.wait()
                raise Stopped(stop, number)
    return state
