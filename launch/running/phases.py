"""Run a job's phases in order: each skipped when done, resumed when half done; what made what is recorded."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launch.job.load import Job
from launch.process.distributed import agree, find_cluster, is_first, join_cluster
from launch.process.environment import jax_listens, sigterm_raises
from launch.reporting.write import write_report
from launch.running.alike import check_processes_alike
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
    # Here, because they take half a second to import, and `preview` does without.
    from trainer.records.goodput import process_started
    from trainer.records.profiler import window_of

    # Before the cluster is joined, so that a wrong --profile fails at once.
    further = {"allow_change": allow_change, "profile": window_of(profile) if profile else None}
    cluster = find_cluster(os.environ)
    if cluster is None or cluster.n > 1:
        # Before any phase, because the others wait in the coordination service while process 0
        # prepares data. A single process joins when it needs devices.
        join_cluster(cluster)
    # Before any of them waits for another, which one with other phases or steps would never come to.
    check_processes_alike(
        job, run_dir, {f"--{name.replace('_', '-')}": value for name, value in further.items()}
    )
    # Only process 0 prints: all would print the same lines.
    console = Console(quiet=not is_first())
    rows = lineage(job)
    start = time.monotonic()
    began = process_started()  # the first phase is charged for imports too
    with contextlib.ExitStack() as locks:

        def begin() -> dict[str, str]:
            # In process 0 only, for which `agree` calls this: the others would find the run locked.
            locks.enter_context(locked(run_dir))
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
            # name=name, because a lambda reads the loop's variable only when it is called.
            agree(f"{name}/done", lambda name=name: mark_done(run_dir / name, rows[name]))
            console.say(f"{label}: done in {duration(time.monotonic() - phase_start)}")
            began = time.time()
        # After all processes are done, because the report reads the logs of all.
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
    # --allow-change names PHASE.FIELD; the phase is told its own fields only.
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
        with jax_listens():
            execute(folder, **offered)
    # A data phase does not ask about SIGTERM; an exception ends it and lets it clean up.
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
