"""`meshwright data append`: add new documents of the sources of a finished data phase to its shards."""

import argparse

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
    phases = {
        # job.yaml has every field and every override of the run, so nothing else is needed.
        name: phase
        for name, phase in load(str(args.run / "job.yaml")).phases.items()
        if hasattr(phase, "append")
    }
    if not phases:
        raise ValueError(
            f"{args.run} has no data phase to append to; give a run that prepares data"
        )
    console = Console()

    # no other command may write there meanwhile; no trainer listens for SIGTERM here, so it must end the work
    with locked(args.run), sigterm_raises():
        for name, phase in phases.items():
            console.say(f"{args.run / name}: appending")
            phase.append(args.run / name, say=console.say, progress=console.progress)
