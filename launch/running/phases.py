"""Run a job's phases in order: each skipped when done, resumed when half done; what made what is recorded."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launch.job.load import Job
from launch.job.problems import Problems
from launch.process.distributed import agree, find_cluster, is_first, join_cluster
from launch.process.environment import jax_listens, sigterm_raises
from launch.reporting.write import write_report
from launch.running.alike import check_processes_alike
from launch.running.executors import executor_of, foreseen
from launch.running.lineage import (
    Answers,
    lineage,
    locked,
    mark_done,
    read_json,
    set_aside,
    states,
    write_record,
)
from launch.running.next_commands import next_commands
from launch.terminal.console import Console, duration
from launch.terminal.summary import print_summary


def check(job: Job, run_dir: Path, answers: Answers, *, n_devices: int | None) -> dict[str, str]:
    """The state of every phase; nothing is written.

    Raises:
        Problems: with everything that would end the job now or later.
    """
    found, problems = states(job, run_dir, answers)
    for name in job.phases:
        # What is finished runs no more; what is refused need not be looked at further.
        if found.get(name) in (None, "done"):
            continue
        problems += foreseen(
            job,
            name,
            run_dir / name,
            n_devices=n_devices,
            allow_change=answers.own_changes(name),
            anew=found[name] == "again",
        )
    if problems:
        raise Problems(job.config, problems)
    return found


def preview(job: Job, run_dir: Path, answers: Answers) -> None:
    """Say what `run` would do, and do nothing. Raises Problems as `run` would."""
    console = Console()
    word = {
        "done": "is done, would be skipped",
        "started": "would be resumed",
        "new": "would run",
        "again": "would be set aside and run anew",
    }
    found = check(job, run_dir, answers, n_devices=n_devices_here() if trains(job) else None)
    for name, phase in job.phases.items():
        console.say(f"{run_dir / name}: {type(phase).__name__} {word[found[name]]}")


def trains(job: Job) -> bool:
    """Whether any phase works on devices."""
    return any(executor_of(phase).needs_devices for phase in job.phases.values())


def n_devices_here() -> int:
    """Devices of all processes of the run; of this one alone before it has joined a cluster."""
    import jax

    return jax.device_count()


def run_phases(
    job: Job,
    run_dir: Path,
    *,
    answers: Answers,
    profile: tuple[int, int] | None,
    argv: Sequence[str],
) -> None:
    """Run or resume every phase that is not done; print the tables and write the report at the end.

    Raises:
        Problems: something would end the job, now or later; then nothing is written.
    """
    # Here, because it takes half a second to import, and `preview` does without.
    from trainer.records.goodput import process_started

    cluster = find_cluster(os.environ)
    needs_devices = trains(job)
    if cluster is None or cluster.n > 1 or needs_devices:
        # Before any phase: devices are counted before data is prepared for hours, and of several
        # processes the others wait in the coordination service meanwhile.
        join_cluster(cluster)
    # Before any of them waits for another, which one with other phases or steps would never come to.
    asked = {"--allow-change": answers.allow_change, "--again": answers.again}
    check_processes_alike(job, run_dir, {**asked, "--profile": profile})
    # Only process 0 prints: all would print the same lines.
    console = Console(quiet=not is_first())
    rows = lineage(job)
    start = time.monotonic()
    began = process_started()  # the first phase is charged for imports too
    with contextlib.ExitStack() as locks:

        def begin() -> dict[str, str]:
            # In process 0 only, for which `agree` calls this: the others would find the run locked.
            found = check(
                job, run_dir, answers, n_devices=n_devices_here() if needs_devices else None
            )
            # After the checks, since a launch that is refused leaves no folder.
            locks.enter_context(locked(run_dir))
            for name in answers.again:
                if moved := set_aside(run_dir, name):
                    console.say(f"{run_dir / name} was set aside: {moved}")
            write_record(job, run_dir, argv, [name for name in found if found[name] == "done"])
            return found

        found = agree("begin", begin)
        for number, name in enumerate(job.phases, 1):
            label = f"[{number}/{len(job.phases)}] {name}"
            if found[name] == "done":
                console.say(f"{label}: done before, skipped")
                continue
            verb = "goes on" if found[name] == "started" else "starts"
            console.say(f"{label}: {verb} in {run_dir / name}")
            phase_start = time.monotonic()
            further = {"profile": profile, "started": began}
            _run_phase(
                job,
                name,
                run_dir,
                console,
                lambda: join_cluster(cluster),
                allow_change=answers.own_changes(name),
                **further,
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
    offered = {
        "job_folder": run_dir,
        "say": console.say,
        "progress": console.progress,
        **further,
        "allow_change": allow_change,
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
