"""The verb `bench`: how fast the real training step is here, against what this machine's matrix products reach in the same minutes."""

import argparse
import copy
import json
from collections.abc import Sequence
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured, and on which shape."""
    parser.add_argument("what", metavar="step", choices=["step"], help="the training step, on one batch")
    parser.add_argument(
        "--shape", choices=["tiny", "note"], default="tiny", help="pretraining of the config tiny (default), or a model of 31.5 M"
    )
    parser.add_argument(
        "--set", metavar="step.FIELD=VALUE", action="append", default=[], help="override, e.g. step.batch_size=16; may be repeated"
    )
    parser.add_argument("--rounds", metavar="N", type=int, default=9, help="steps measured; medians are printed (default 9)")


def main(args: argparse.Namespace) -> int:
    """Measure, and print one line a figure."""
    from launch.environment import prepare_process

    if args.rounds < 1:
        raise ValueError(f"--rounds {args.rounds}: must be at least 1; raise it")
    prepare_process()
    import jax

    from launch.step_bench import describe, lines, measure

    shape = shape_of(args.shape, args.set)
    mesh = shape.mesh.make()
    with jax.set_mesh(mesh):
        sentence, flops_per_token = describe(shape, mesh.size)
        print(sentence, flush=True)
        rounds = measure(shape, mesh, n_rounds=args.rounds)
    tokens = shape.batch_size * shape.seq_len
    print("\n".join(lines(rounds, tokens=tokens, flops_per_token=flops_per_token, n_devices=mesh.size)))
    return 0


def shape_of(name: str, settings: Sequence[str]) -> Any:
    """The StepShape of `--shape` and `--set`.

    Raises:
        Problems: with everything that is wrong.
    """
    from pydantic import ValidationError

    from launch.job import load
    from launch.overrides import override
    from launch.problems import Problems, explain_all
    from launch.step_bench import NOTE, StepShape, shape_of_run

    fields = NOTE if name == "note" else shape_of_run(load(name).phases["pretrain"])
    tree = {"step": copy.deepcopy(fields)}
    problems = override(tree, settings)
    try:
        shape = StepShape.model_validate_json(json.dumps(tree["step"]))
    except ValidationError as error:
        problems += explain_all(error, "step", tree["step"], StepShape)
    if problems:
        raise Problems("bench step", problems)
    return shape
