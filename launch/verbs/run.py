"""The verb `run`: the phases of a config in order, here, in several processes of this machine, or on a
cluster.
"""

import argparse
import re
from pathlib import Path

from launch.verbs.arguments import add_config_arguments

RUNS = Path("runs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, the folder, and where to run."""
    add_config_arguments(parser)
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="RUN_DIR",
        help="folder of the run (default: runs/NAME OF THE CONFIG)",
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
        help="print what would run, or the job that would be submitted",
    )
    parser.add_argument(
        "--allow-change",
        metavar="PHASE.FIELD",
        action="append",
        default=[],
        help="accept another value of a field that decides the results of a run; may be repeated",
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

    job = load(args.config, args.set, args.imports)
    # In args, because after a fault `failures.report` writes the traceback into the run folder.
    args.run_dir = args.dir or RUNS / job.name
    if args.on:
        return hand_over(args, job.name)
    if args.cluster:
        raise ValueError(
            f"--cluster {args.cluster[0]} needs --on slurm; add it or leave --cluster out"
        )
    # Not at the top: a job that is handed over to a cluster does not need it.
    from launch.running.phases import preview, run_phases

    if args.dry_run:
        preview(job, args.run_dir)
    else:
        run_phases(
            job, args.run_dir, allow_change=args.allow_change, profile=args.profile, argv=args.argv
        )

    return 0


def hand_over(args: argparse.Namespace, name: str) -> int:
    """Start the same command in N processes here, or as a batch job."""
    # The command as it was typed, without the options that would make each process start others.
    command = without_options(args.argv, {"--on": 1, "--cluster": 1, "--dry-run": 0})

    # Named in the command, so that the processes do not each derive a default.
    if "--dir" not in command and not any(word.startswith("--dir=") for word in command):
        command += ["--dir", str(args.run_dir)]
    # local:N or local:NxD; [1-9] first, so that local:0 is refused.
    local = re.fullmatch(r"local:([1-9]\d*)(?:x([1-9]\d*))?", args.on)
    if local:
        from launch.clusters.local import run_here

        return run_here(
            int(local[1]),
            command,
            devices=int(local[2] or 1),
            run_dir=args.run_dir,
            dry_run=args.dry_run,
        )
    if args.on == "slurm":
        from launch.clusters.slurm import submit

        return submit(
            command, name=name, run_dir=args.run_dir, settings=args.cluster, dry_run=args.dry_run
        )
    raise ValueError(f"--on {args.on}: no such cluster; choose local:N (N processes here) or slurm")


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
