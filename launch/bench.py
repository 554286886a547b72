"""The verb `bench`: how fast the training step and the data phase are here, against what this machine does at best in the same minutes."""

import argparse
import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured, and on what."""
    kinds = parser.add_subparsers(dest="what", metavar="train|data", required=True)
    train = kinds.add_parser("train", help="the training step, on one batch: tokens a second, MFU and memory", allow_abbrev=False)
    train.add_argument(
        "shape",
        metavar="SHAPE",
        nargs="?",
        default="llama_31m",
        help="llama_31m (default), gpt2_124m, or the first training phase of a config: a name (tiny), a .py file or a .yaml file",
    )
    train.add_argument(
        "--set", metavar="FIELD=VALUE", action="append", default=[], help="override, e.g. architecture.layers=4; may be repeated"
    )
    train.add_argument("--rounds", metavar="N", type=int, default=9, help="steps measured; medians are printed (default 9)")
    train.add_argument("--json", action="store_true", help="print the figures as JSON")
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
    if args.what == "train":
        _bench_train(args)
    else:
        from launch.data_bench import bench_data

        bench_data(args)
    return 0


def _bench_train(args: argparse.Namespace) -> None:
    from launch.environment import prepare_process

    prepare_process()
    import jax

    from launch.train_bench import describe, figures, lines, measure

    shape = shape_of(args.shape, args.set)
    mesh = shape.mesh.make()
    with jax.set_mesh(mesh):
        sentence, flops_per_token = describe(shape, mesh.size)
        if not args.json:
            print(sentence, flush=True)
        rounds = measure(shape, mesh, n_rounds=args.rounds)
    found = figures(rounds, tokens=shape.batch_size * shape.seq_len, flops_per_token=flops_per_token, n_devices=mesh.size)
    print(json.dumps({"shape": sentence, **found}) if args.json else "\n".join(lines(found, rounds, mesh.size)))


def shape_of(name: str, settings: Sequence[str]) -> Any:
    """The TrainShape of a name and `--set`.

    Raises:
        Problems: with everything that is wrong.
    """
    from pydantic import ValidationError

    from launch.bench_shapes import SHAPES, TrainShape, shape_of_run
    from launch.job import load
    from launch.overrides import override
    from launch.problems import Problems, explain_all

    fields = SHAPES[name] if name in SHAPES else shape_of_run(_first_run(name, load(name).phases))
    tree = {"train": copy.deepcopy(fields)}
    problems = override(tree, [setting if setting.startswith("train.") else f"train.{setting}" for setting in settings])
    try:
        shape = TrainShape.model_validate_json(json.dumps(tree["train"]))
    except ValidationError as error:
        problems += explain_all(error, "train", tree["train"], TrainShape)
    if problems:
        raise Problems("bench train", problems)
    return shape


def _first_run(name: str, phases: dict[str, Any]) -> Any:
    runs = [phase for phase in phases.values() if hasattr(phase, "architecture")]
    if not runs:
        raise ValueError(f"{name} has no phase that trains; name a config that has one")
    return runs[0]
