"""Carry out a Run: assemble its parts on the devices, train, measure, write results.json."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from trainer.assemble import step_of
from trainer.batches.open import open_source
from trainer.checkpoints.finished import DONE
from trainer.cluster.coordination import is_first
from trainer.cluster.placement import note_placement
from trainer.cluster.watchdog import watching
from trainer.evals.measure import Measures
from trainer.identity import check_identity
from trainer.loop import train
from trainer.phase import Phase
from trainer.records.damage import mend_logs
from trainer.records.goodput import Ledger, process_started
from trainer.records.recording import recording
from trainer.records.results import write_findings, write_results
from trainer.run import Run


def execute(
    run: Run,
    folder: Path,
    *,
    job_folder: Path,
    say: Callable[[str], None],
    progress: Callable[..., Any],
    allow_change: Sequence[str] = (),
    started: float | None = None,
    profile: tuple[int, int] | None = None,
) -> None:
    """Train to the end, from the newest checkpoint in `folder` if there is one; then write results.json.

    `started` is the Unix time at which the phase's time account begins, by default the start of the process;
    `profile` the first and last step to trace.

    Raises:
        ValueError: the folder holds another run, or sizes do not fit the mesh.
        Stopped: a signal came, and the state is saved.
        Diverged: the loss stays NaN or infinite.
    """
    mesh = run.mesh.make()
    # Watched from before the state is restored: a process that dies while it reads a checkpoint
    # would leave the others waiting in a collective for ever.
    with jax.set_mesh(mesh), watching(run.health.hang_s, folder) as (hosts, watchdog):
        phase = Phase(run, folder, job_folder, mesh, say, progress)
        _introduce(phase, allow_change, say)
        resumed_at = phase.checkpointer.verify_latest() or 0
        mend_logs(folder, resumed_at, say, phase.event)
        began = started or process_started()
        ledger = Ledger(folder, resumed_at, active=is_first(), started=began)
        restoring = ledger.spent("restore") if resumed_at else contextlib.nullcontext()
        # Paused: reading a large checkpoint may take longer than a step is allowed to.
        with watchdog.paused(), restoring:
            state = phase.state()
            phase.load_others()
        first = int(state.step)
        # Not `resumed_at`: a checkpoint that passed verification may have proved damaged when it was read.
        ledger.back_to(first)
        note_placement(phase.event, first, mesh)
        measures = Measures(phase)
        # Not paused: this may compute the reference's columns, and calls `alive` after every batch of them.
        source = open_source(phase, alive=watchdog.alive)
        with watchdog.paused():
            # Measured only once: a resumed phase reads before.json, since its first parameters are gone.
            before = measures.before(state)
        with contextlib.ExitStack() as opened:
            advance = opened.enter_context(
                progress(f"  {folder.name}", run.steps, unit="steps", done=first)
            )
            records = recording(
                phase,
                source,
                ledger,
                hosts,
                watchdog,
                first=first,
                advance=advance,
                profile=profile,
            )
            recorder = opened.enter_context(records)
            # The evaluation before training is step 0 of the curves; a resumed phase has that row already.
            if first == 0:
                recorder.metrics.write(0, _as_evals(before))
            step = step_of(phase)
            state = train(
                phase, source, recorder, measures, step=step, state=state, steps=run.steps
            )
            with recorder.pausing("evaluate"):
                after = measures(state)
            write_findings(recorder.metrics, run.steps, after)
            # Waits for the last save: when results.json appears, the final checkpoint is on the disk.
            with recorder.pausing("checkpoint"):
                phase.checkpointer.close()
        # After the records are closed: the summary reads the rows of metrics.jsonl back.
        write_results(phase, before=before, after=after)


def _introduce(phase: Phase, allow_change: Sequence[str], say: Callable[[str], None]) -> None:
    """Print the settings that changed since the newest checkpoint, and what is trained on which mesh; from
    here on the phase is not finished.

    Raises:
        ValueError: the checkpoint was saved by another run.
    """
    for change in _free_changes(phase, allow_change):
        say(f"  changed since the checkpoint: {change}")
    say(f"  {phase.describe()}")
    if is_first():
        # A phase that is trained on has another end: its old one would prove nothing.
        (phase.folder / DONE).unlink(missing_ok=True)


def _as_evals(numbers: Mapping[str, float]) -> dict[str, float]:
    """Held-out numbers under the metric names of evaluations, `eval/NAME`."""
    return {f"eval/{name}": value for name, value in numbers.items()}


def _free_changes(phase: Phase, allow_change: Sequence[str]) -> list[str]:
    """A line for each free field that differs from the run that saved the newest checkpoint.

    Raises:
        ValueError: an identity field differs.
    """
    if not phase.resumes():
        return []
    # Serialized by the process that saved it, with the defaults of that version filled in.
    saved = phase.checkpointer.read_json(phase.checkpointer.verify_latest(), "run")
    return check_identity(saved, phase.serialized, allow_change=allow_change, folder=phase.folder)
