"""The verb `run`: the phases of a config in order, here, in several processes of this machine, or on a
cluster.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from launch.verbs.arguments import add_config_arguments, local_folder

RUNS = Path("runs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, the folder, and where to run."""
    add_config_arguments(parser)
    parser.add_argument(
        "--dir",
        type=local_folder,
        metavar="RUN_DIR",
        help="folder of the run, with several hosts on a file system that all of them see "
        "(default: runs/NAME OF THE CONFIG)",
    )
    parser.add_argument(
        "--on",
        metavar="CLUSTER",
        help="local:N = N processes here (local:NxD: D CPU devices each); slurm = an sbatch job",
    )
    parser.add_argument(
        "--cluster",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a field of the cluster, e.g. nodes=4 (see launch/clusters/slurm.py); may be repeated",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything and print what would run, or the job that would be submitted",
    )
    parser.add_argument(
        "--allow-change",
        metavar="PHASE.FIELD",
        action="append",
        default=[],
        help="accept another value of a field that decides the results of a run; may be repeated",
    )
    parser.add_argument(
        "--again",
        metavar="PHASE",
        action="append",
        default=[],
        help="set what a phase has made aside, in RUN_DIR/earlier, and make it anew; may be repeated",
    )
    parser.add_argument(
        "--profile",
        metavar="steps=A:B",
        help="trace steps A to B of every phase for TensorBoard's profile page",
    )


def main(args: argparse.Namespace) -> int:
    """Check the configuration, then run it or hand it over."""
    from launch.process.environment import prepare_process

    # Before anything imports jax, which then reads platforms and compiler flags.
    prepare_process()
    from launch.job.load import load

    # Before the configuration, which takes seconds.
    window = _window(args.profile)
    job = load(args.config, args.set, args.imports)
    # In args, because after a fault `failures.report` writes the traceback into the run folder.
    args.run_dir = args.dir or RUNS / job.name
    # Not at the top: it imports what only a run needs.
    from launch.running.lineage import Answers
    from launch.running.phases import preview, run_phases

    answers = Answers(tuple(args.allow_change), tuple(args.again))
    if args.on:
        return hand_over(args, job, answers)
    if args.cluster:
        raise ValueError(
            f"--cluster {args.cluster[0]} needs --on slurm; add it or leave --cluster out"
        )
    if args.dry_run:
        preview(job, args.run_dir, answers)
    else:
        run_phases(job, args.run_dir, answers=answers, profile=window, argv=args.argv)

    return 0


def _window(profile: str | None) -> tuple[int, int] | None:
    """First and last step of --profile. Raises ValueError if it has another form."""
    if profile is None:
        return None
    from trainer.records.profiler import window_of  # with jax, which others do not wait for here

    return window_of(profile)


def hand_over(args: argparse.Namespace, job: Any, answers: Any) -> int:
    """Start the same command in N processes here, or as a batch job, after the checks that this process can
    make for them.
    """
    from launch.process.hardware import cpu_only
    from launch.running.phases import check

    # local:N or local:NxD; [1-9] first, so that local:0 is refused.
    local = re.fullmatch(r"local:([1-9]\d*)(?:x([1-9]\d*))?", args.on)
    if not local and args.on != "slurm":
        raise ValueError(
            f"--on {args.on}: no such cluster; choose local:N (N processes here) or slurm"
        )
    # The command as it was typed, without the options that would make each process start others.
    command = without_options(args.argv, {"--on": 1, "--cluster": 1, "--dry-run": 0})
    # Named in the command, so that the processes do not each derive a default.
    if "--dir" not in command and not any(word.startswith("--dir=") for word in command):
        command += ["--dir", str(args.run_dir)]
    if local:
        from launch.clusters.local import run_here

        n, devices = int(local[1]), int(local[2] or 1)
        # GPUs are counted by the processes that will use them: here they would be taken from those.
        check(job, args.run_dir, answers, n_devices=n * devices if cpu_only() else None)
        return run_here(n, command, devices=devices, run_dir=args.run_dir, dry_run=args.dry_run)
    from launch.clusters.slurm import slurm_from, submit

    slurm = slurm_from(args.cluster)
    # Without GPUs on the nodes nobody here knows what devices they have; nor which kind of mesh they make.
    check(job, args.run_dir, answers, n_devices=None)
    return submit(slurm, command, name=job.name, run_dir=args.run_dir, dry_run=args.dry_run)


def without_options(argv: list[str], options: dict[str, int]) -> list[str]:
    """`argv` without `options` (name → number of values), in both spellings `--on X` and `--on=X`."""
    kept_words: list[str] = []
    skip = 0  # how many of the next words are values of an option that is dropped
    for word in argv:
        # At the first = only: in `--set=a=b` the rest belongs to the value.
        name = word.partition("=")[0]
        if skip:
            skip -= 1
        elif name in options:
            skip = 0 if "=" in word else options[name]
        else:
            kept_words.append(word)
    return kept_words
