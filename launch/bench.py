"""The verb `bench`: how fast the training step and the data phase are here, against what this machine does at best in the same minutes."""

import argparse
import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured, and on what."""
    kinds = parser.add_subparsers(dest="what", metavar="step|data", required=True)
    step = kinds.add_parser("step", help="the training step, on one batch: tokens a second and MFU", allow_abbrev=False)
    step.add_argument(
        "--shape", choices=["tiny", "note"], default="tiny", help="pretraining of the config tiny (default), or a model of 31.5 M"
    )
    step.add_argument(
        "--set", metavar="step.FIELD=VALUE", action="append", default=[], help="override, e.g. step.batch_size=16; may be repeated"
    )
    step.add_argument("--rounds", metavar="N", type=int, default=9, help="steps measured; medians are printed (default 9)")
    data = kinds.add_parser("data", help="every stage of the data phase, per core, and the whole with 1 and 2 workers", allow_abbrev=False)
    data.add_argument(
        "--web", metavar="PATH", type=Path, help="a folder of HTML files or a WARC file (default: pydoc pages of the standard library)"
    )
    data.add_argument("--mb", metavar="N", type=float, default=8.0, help="of raw HTML and of code that are measured on (default 8)")
    data.add_argument("--rounds", metavar="N", type=int, default=3, help="times each stage is measured; medians are printed (default 3)")
    data.add_argument("--json", action="store_true", help="print everything as JSON")


def main(args: argparse.Namespace) -> int:
    """Measure, and print one line a figure."""
    if args.rounds < 1:
        raise ValueError(f"--rounds {args.rounds}: must be at least 1; raise it")
    if args.what == "step":
        _bench_step(args)
    else:
        from launch.data_bench import bench_data

        bench_data(args)
    return 0


def _bench_step(args: argparse.Namespace) -> None:
    from launch.environment import prepare_process

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
