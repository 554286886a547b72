"""The verb `plan`: compile a phase's real training step for chips that are not here, and say what it costs;
or check its muP.
"""

import argparse
import json
import sys
from typing import Any

from launch.verbs.arguments import add_config_arguments, local_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, the hardware, what to print."""
    add_config_arguments(parser)
    # Either a topology to compile for, or the coordinate check, which runs on this machine.
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--topology", metavar="NAME", help="a TPU slice (v5p:4x4x4) or a number of GPUs (h100:64)"
    )
    what.add_argument(
        "--coordinate-check",
        action="store_true",
        help="check that mup_base_width keeps activations at one size as the model gets wider",
    )
    parser.add_argument(
        "--slices",
        metavar="N",
        type=int,
        default=1,
        help="number of such slices, connected by the data-centre network (default 1)",
    )
    parser.add_argument(
        "--phase", metavar="NAME", help="the training phase (default: the config's first)"
    )
    parser.add_argument(
        "--search",
        action="store_true",
        help="find the fastest mesh, rematerialisation, micro-batches and offload",
    )
    parser.add_argument(
        "--finalists",
        metavar="N",
        type=int,
        default=4,  # compiling takes minutes each for a large model
        help="how many settings the search compiles (default 4)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--hlo",
        metavar="FILE",
        type=local_folder,
        help="write the text of the compiled program to this file",
    )


def main(args: argparse.Namespace) -> int:
    """Compile, and print; 3 when the step does not fit, or activations grow."""
    from launch.planning.environment import quiet_environment
    from launch.process.environment import prepare_process

    # Both set environment variables that XLA and libtpu read once, when jax is imported.
    prepare_process()
    if args.coordinate_check:
        return _check(args)
    quiet_environment()
    from launch.planning.topology import target_of

    # Before the configuration is loaded, which takes seconds.
    target = target_of(args.topology, args.slices)
    if args.finalists < 1:
        raise ValueError(f"--finalists {args.finalists}: must be at least 1; raise it")
    from launch.job.load import load
    from launch.planning.plan import Planner

    # Loaded as `run` loads it, so that what is planned can also be run.
    name, run = phase_of(load(args.config, args.set, args.imports), args.phase)

    # To standard error: with --json standard output must hold the JSON alone.
    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    planner = Planner(name, run, target, hlo=args.hlo, say=say)
    report = planner.search(args.finalists) if args.search else planner.one()
    if report.problem:
        print(f"meshwright: error: {report.problem}", file=sys.stderr)
    if args.json and report.json is not None:
        print(json.dumps(report.json, indent=2))
    elif report.lines:
        print("\n".join(report.lines))

    # 3 where the step does not fit, so that a script can try other settings.
    return report.code


def phase_of(job: Any, name: str | None) -> tuple[str, Any]:
    """The training phase that is asked for.

    Raises:
        ValueError: there is none, or none of that name.
    """
    from trainer.run import Run

    runs = {name: phase for name, phase in job.phases.items() if isinstance(phase, Run)}
    if not runs:
        raise ValueError(
            f"config {job.name} has no training phase (Run) to plan; there are {', '.join(job.phases)}"
        )
    # Phases keep the order of the configuration, so this is the first one that trains.
    name = name or next(iter(runs))
    if name not in runs:
        raise ValueError(
            f"--phase {name}: no training phase of {job.name}; choose of {', '.join(runs)}"
        )
    return name, runs[name]


def _check(args: argparse.Namespace) -> int:
    # Otherwise they would be ignored without a word.
    compiled = {"--search": args.search, "--hlo": args.hlo, "--slices": args.slices != 1}
    if beside := [option for option, value in compiled.items() if value]:
        remedy = "--coordinate-check compiles for no other chips; leave it out or name a --topology"
        raise ValueError(f"{beside[0]} goes with --topology: {remedy}")
    from launch.job.load import load
    from launch.planning.coordinate_check import family, report

    name, run = phase_of(load(args.config, args.set, args.imports), args.phase)
    # The relatives of a model are the same architecture at other widths.
    widths = ", ".join(str(architecture.width) for architecture in family(run.architecture))
    remedy = f"--set {name}.architecture.… gives a smaller relative if that is too much here"
    print(
        f"{name}: a few steps of relatives with width {widths}, twice; {remedy}",
        file=sys.stderr,
        flush=True,
    )
    verdict = report(run)
    print(json.dumps(verdict.json, indent=2) if args.json else "\n".join(verdict.lines))
    return verdict.code
