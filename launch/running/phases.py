"""Run a job's phases in order: each skipped when done, resumed when half done; what made what is recorded."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launch.job.load import Job
from launch.process.distributed import agree, find_cluster, is_first, join_cluster
from launch.process.environment import sigterm_raises
from launch.reporting.write import write_report
from launch.running.executors import executor_of
from launch.running.lineage import lineage, locked, mark_done, read_json, state, write_record
from launch.running.next_commands import next_commands
from launch.terminal.console import Console, duration
from launch.terminal.summary import print_summary


def preview(job: Job, run_dir: Path) -> None:
    """Say what `run` would do, and do nothing."""
    console, rows = Console(), lineage(job)
    word = {"done": "is done, would be skipped", "started": "would be resumed", "new": "would run"}
    for name, phase in job.phases.items():
        console.say(
            f"{run_dir / name}: {type(phase).__name__} {word[state(run_dir, name, rows[name])]}"
        )


def run_phases(
    job: Job,
    run_dir: Path,
    *,
    allow_change: Sequence[str],
    profile: str | None,
    argv: Sequence[str],
) -> None:
    """Run or resume every phase that is not done; print the tables and write the report at the end."""
    # with what they need these take half a second, which only a run shall wait for
    from trainer.records.goodput import process_started
    from trainer.records.profiler import window_of

    # Parsed before the cluster is joined, so that a wrong --profile fails in milliseconds.
    further = {"allow_change": allow_change, "profile": window_of(profile) if profile else None}
    cluster = find_cluster(os.environ)
    if cluster is None or cluster.n > 1:
        # joined early: the others wait in the coordination service while process 0 prepares data
        join_cluster(cluster)
    # All processes would print the same lines; those of process 0 are enough.
    console = Console(quiet=not is_first())
    rows = lineage(job)
    start = time.monotonic()
    began = process_started()  # the first phase is charged for imports too
    with contextlib.ExitStack() as held:

        def begin() -> dict[str, str]:
            # in process 0 alone: a second lock by another process of this run would be refused
            held.enter_context(locked(run_dir))
            states = {name: state(run_dir, name, rows[name]) for name in job.phases}
            write_record(job, run_dir, argv)
            return states

        states = agree("begin", begin)
        for number, name in enumerate(job.phases, 1):
            label = f"[{number}/{len(job.phases)}] {name}"
            if states[name] == "done":
                console.say(f"{label}: done before, skipped")
                continue
            verb = "goes on" if states[name] == "started" else "starts"
            console.say(f"{label}: {verb} in {run_dir / name}")
            phase_start = time.monotonic()
            _run_phase(
                job, name, run_dir, console, lambda: join_cluster(cluster), started=began, **further
            )
            # `name=name` binds the value now: a lambda sees the loop's variable as it is when
            # called.
            agree(f"{name}/done", lambda name=name: mark_done(run_dir / name, rows[name]))
            console.say(f"{label}: done in {duration(time.monotonic() - phase_start)}")
            began = time.time()
        # In process 0, when all others are done too: the report reads the logs of all processes.
        agree("end", lambda: _finish(job, run_dir, console, time.monotonic() - start))


def _run_phase(
    job: Job,
    name: str,
    run_dir: Path,
    console: Console,
    join: Callable[[], None],
    *,
    allow_change: Sequence[str],
    **further: Any,
) -> None:
    """One phase: on all processes if it uses devices, else in process 0 while the others wait."""
    folder = run_dir / name
    prefix = f"{name}."
    # An option is `phase.field`; the phase itself knows only its own field names.
    own_changes = [field.removeprefix(prefix) for field in allow_change if field.startswith(prefix)]
    offered = {
        "job_folder": run_dir,
        "say": console.say,
        "progress": console.progress,
        **further,
        "allow_change": tuple(own_changes),
    }
    execute = executor_of(job.phases[name])
    agree(f"{name}/folder", lambda: folder.mkdir(exist_ok=True))
    if execute.needs_devices:
        join()
        execute(folder, **offered)
    # A data phase knows nothing of SIGTERM; an exception unwinds it through its own cleaning up.
    else:
        with sigterm_raises():
            agree(f"{name}/work", lambda: execute(folder, **offered))


def _finish(job: Job, run_dir: Path, console: Console, seconds: float) -> None:
    """Print the tables, write report.html, and say what to do next."""
    print_summary(
        console, {name: read_json(run_dir / name / "results.json") for name in job.phases}
    )
    write_report(run_dir)
    console.say(
        f"{run_dir}: all {len(job.phases)} phases done in {duration(seconds)}; see {run_dir / 'report.html'}"
    )
    for command, purpose in next_commands(job, run_dir):
        console.say(f"  {command}    # {purpose}")
