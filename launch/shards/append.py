"""`meshwright data append`: add new documents of the sources of a finished data phase to its shards."""

import argparse

from data_pipeline.prepare import Prepare
from launch.job.load import import_components, load
from launch.process.environment import sigterm_raises
from launch.running.lineage import locked
from launch.terminal.console import Console


def append(args: argparse.Namespace) -> None:
    """Read the run's own configuration and append.

    Raises:
        ValueError: there is no finished data phase.
    """
    for module in args.imports:
        import_components(module)
    if not (args.run / "job.yaml").is_file():
        raise ValueError(
            f"{args.run} is no folder of a run (job.yaml is missing); give one such as runs/tiny"
        )
    # job.yaml has every field of the run, with all overrides applied.
    phases = {
        name: phase
        for name, phase in load(str(args.run / "job.yaml")).phases.items()
        if isinstance(phase, Prepare)
    }
    if not phases:
        raise ValueError(
            f"{args.run} has no data phase to append to; give a run that prepares data"
        )
    console = Console()

    # Locked, because no other command may write there meanwhile. No training loop asks about SIGTERM
    # here, so it has to raise.
    with locked(args.run), sigterm_raises():
        for name, phase in phases.items():
            console.say(f"{args.run / name}: appending")
            phase.append(
                args.run / name,
                # Absolute, because the phase changes the working directory.
                read_from=args.start and args.start.absolute(),
                say=console.say,
                progress=console.progress,
            )
