"""The verb `replay`: one training step once more, compared with the log bit for bit."""

import argparse
import math
from collections.abc import Mapping

from launch.verbs.arguments import add_import_argument
from launch.verbs.data import add_run_arguments

# In the last column instead of a difference of 0, which -0.0 and 0.0 have too.
EXACT = "the same bits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, the phase and the step."""
    add_run_arguments(parser)
    parser.add_argument(
        "--phase", metavar="NAME", help="a trained phase such as pretrain (default: the only one)"
    )
    parser.add_argument(
        "--step",
        metavar="N",
        type=int,
        required=True,
        help="the step, from 1; it is made once more with its own rows",
    )
    add_import_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Print logged and present numbers; 0 if all of them have the same bits, else 1."""
    from launch.process.environment import prepare_process

    prepare_process()
    import jax

    from launch.shards.origin import named_phase, run_of
    from launch.terminal.console import Console
    from trainer.cluster.placement import moved, placed_at, placement
    from trainer.replay.history import run_of_step
    from trainer.replay.replay import replay

    console = Console()
    folder = run_of(args)
    # From job.yaml of the run folder: the config file may have changed since.
    name, run = named_phase(args)

    # A later start of the run may have changed settings, so those of the step are looked up.
    run = run_of_step(folder / name, args.step, run)
    mesh = run.mesh.make()
    # The same mesh as in training: another one adds partial sums in another order.
    with jax.set_mesh(mesh):
        shown = {"say": console.say, "progress": console.progress}
        replayed = replay(run, folder / name, folder, args.step, **shown)
        then = placed_at(folder / name, args.step)
        # Logs of older versions do not tell the devices.
        changes = (
            moved(then, placement(mesh)) if then else ["where it was computed is not in its log"]
        )
    since = f"from checkpoint {replayed.first}" if replayed.first else "from the beginning"
    lines, n_exact = compared(replayed.logged, replayed.now)
    console.table(
        f"{folder / name}, step {args.step}, {since}", ("", "logged", "now", "difference"), lines
    )
    if changes:
        console.say(f"Other sums may round otherwise: {'; '.join(changes)}")
    console.say(f"{n_exact} of {len(lines)} numbers have the same bits")

    # A script can tell from the exit code that a step was not repeated exactly.
    return 0 if n_exact == len(lines) else 1


def compared(
    logged: Mapping[str, float], now: Mapping[str, float]
) -> tuple[list[tuple[str, str, str, str]], int]:
    """A line for each number that the step gives and its logged row has, and how many have the same bits."""
    lines, n_exact = [], 0
    # A row also has times and rates, which a replay does not give.
    for name in sorted(now.keys() & logged.keys()):
        exact = same_bits(now[name], logged[name])
        difference = EXACT if exact else f"{now[name] - logged[name]:.3g}"
        # 9 significant digits tell any two float32 numbers apart.
        lines.append((name, f"{logged[name]:.9g}", f"{now[name]:.9g}", difference))
        n_exact += exact
    return lines, n_exact


def same_bits(x: float, y: float) -> bool:
    """Whether two numbers have the same bits; any NaN counts as the same as any other."""
    both_nan = math.isnan(x) and math.isnan(y)
    # float.hex is exact and tells -0.0 from 0.0, which == does not.
    return both_nan or x.hex() == y.hex()
