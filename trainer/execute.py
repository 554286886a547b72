"""A Run is carried out: the parts are built on the devices, and the loop turns them."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from trainer.assemble import parts_of
from trainer.cluster.placement import note_placement
from trainer.evals.measure import Measures
from trainer.identity import check_identity
from trainer.loop import train
from trainer.phase import Phase
from trainer.records.goodput import Ledger, process_started
from trainer.records.results import write_findings, write_results
from trainer.rows import source_of
from trainer.telemetry import recording, watching


def execute(
    run: Any,
    folder: Path,
    job_folder: Path,
    *,
    say: Callable[[str], None],
    progress: Callable[..., Any],
    allow_change: Sequence[str],
    started: float | None,
    profile: tuple[int, int] | None,
) -> None:
    """See `Run.execute`."""
    mesh = run.mesh.make()
    with jax.set_mesh(mesh), watching(run, folder) as (hosts, watchdog):
        phase = Phase(run, folder, job_folder, mesh, say)
        for change in _checked(phase, allow_change):
            say(f"  changed since the checkpoint: {change}")
        say(f"  {phase.describe()}")
        at, is_first = phase.checkpointer.latest() or 0, jax.process_index() == 0
        ledger = Ledger(
            folder, at, active=is_first, started=process_started() if started is None else started
        )
        with watchdog.paused(), ledger.spent("restore") if at else contextlib.nullcontext():
            state = phase.state()
        first = int(state.step)
        ledger.back_to(first)  # the newest checkpoint may have been damaged
        note_placement(phase.event, first, mesh)
        measures, source = Measures(phase), source_of(phase, alive=watchdog.alive)
        with watchdog.paused():
            before = measures.before(state)
        with contextlib.ExitStack() as opened:
            advance = opened.enter_context(progress(f"  {folder.name}", run.steps, unit="steps", done=first))
            recorder, profiler = opened.enter_context(
                recording(
                    phase, source, ledger, hosts, watchdog, first=first, advance=advance, profile=profile
                )
            )
            parts = parts_of(phase, source, recorder, measures, profiler, first=first)
            if first == 0:
                recorder.metrics.write(0, {f"eval/{name}": value for name, value in before.items()})
            state = train(parts, state, steps=run.steps)
            with recorder.pausing("evaluate"):
                after = measures(state)
            write_findings(recorder.metrics, run.steps, after)
            with recorder.pausing("checkpoint"):
                phase.checkpointer.close()
        write_results(phase, before=before, after=after)


def _checked(phase: Phase, allow_change: Sequence[str]) -> list[str]:
    """Free differences from the run that wrote the newest checkpoint. Raises ValueError if it was another
    run.
    """
    if not phase.resumed:
        return []
    saved = phase.checkpointer.read_json(phase.checkpointer.latest(), "run")
    return check_identity(saved, phase.serialized, allow_change=allow_change, folder=phase.folder)
