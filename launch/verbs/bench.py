"""The verb `bench`: how fast things are here, against what this machine does at best in the same minutes."""

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.verbs.arguments import local_folder

KINDS = {  # what is measured -> help
    "train": "the training step on one batch: tokens a second, MFU and memory",
    "loop": "what the training loop costs beside its steps, and the time to the first step",
    "checkpoint": "saving, restoring and hashing a state, beside what the disk itself can do",
    "optimizers": "every optimizer on the same small run: loss against tokens and time, size of its state",
    "data": "every stage of the data phase, per core, and all of it with 1 and 2 workers",
    "device": "first on a new GPU or TPU: kernels against plain forms; training, decoding, saving",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A parser for each thing that can be measured."""
    kinds = parser.add_subparsers(dest="what", metavar="|".join(KINDS), required=True)
    parsers = {
        name: kinds.add_parser(name, help=text, allow_abbrev=False) for name, text in KINDS.items()
    }
    _add_train_arguments(parsers["train"])
    _add_rounds(parsers["loop"], 5, "rounds measured")
    _add_checkpoint_arguments(parsers["checkpoint"])
    parsers["optimizers"].add_argument(
        "--steps", metavar="N", type=int, default=400, help="steps of each run (default 400)"
    )
    # its runs are compared by loss, and one run of each says that
    parsers["optimizers"].set_defaults(rounds=1)
    _add_data_arguments(parsers["data"])
    for name, each in parsers.items():
        each.set_defaults(parser=each)
        if name != "device":  # its `--json` takes a file name, and it prints its table anyway
            each.add_argument("--json", action="store_true", help="print the figures as JSON")
    _add_device_arguments(parsers["device"])


def _add_rounds(parser: argparse.ArgumentParser, default: int, what: str) -> None:
    text = f"{what}; medians are printed (default {default})"
    parser.add_argument("--rounds", metavar="N", type=int, default=default, help=text)


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shape",
        metavar="SHAPE",
        nargs="?",
        default="llama_31m",
        help="llama_31m (default), gpt2_124m, or a config, whose first training phase is taken",
    )
    parser.add_argument(
        "--set",
        metavar="FIELD=VALUE",
        action="append",
        default=[],
        help="override, e.g. architecture.layers=4; may be repeated",
    )
    _add_rounds(parser, 9, "steps measured")


def _add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gb", metavar="N", type=float, default=2.0, help="gigabytes of the state (default 2)"
    )
    _add_rounds(parser, 3, "saves measured")
    parser.add_argument(
        "--dir",
        metavar="FOLDER",
        type=local_folder,
        default=Path("runs"),
        help="a folder on the disk to measure (default runs)",
    )
    parser.add_argument(
        "--every",
        metavar="SECONDS",
        type=float,
        default=600.0,
        help="time between two saves, for the share of it that saving takes (default 600)",
    )


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--web",
        metavar="PATH",
        type=local_folder,
        help="a folder of HTML files or a WARC file (default: pydoc pages)",
    )
    parser.add_argument(
        "--mb",
        metavar="N",
        type=float,
        default=8.0,
        help="megabytes of raw HTML, and of code, to measure on (default 8)",
    )
    _add_rounds(parser, 3, "times each stage is measured")


def _add_device_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", metavar="FILE", type=local_folder, help="also write the table as JSON"
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="tiny shapes, some seconds on a CPU: a test of the command itself",
    )
    # Internal: the child process is started with it, and does the checks from number N on.
    parser.add_argument("--from", dest="first", metavar="N", type=int, help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    """Measure, and print one line a figure.

    Raises:
        ValueError: --rounds is below 1.
    """
    if args.what == "device":
        return _bench_device(args)
    if args.rounds < 1:
        raise ValueError(f"--rounds {args.rounds}: must be at least 1; raise it")

    # The data phase uses no devices, and its workers must not inherit settings for them.
    if args.what != "data":
        from launch.process.environment import prepare_process

        prepare_process()
    benches = {
        "train": _bench_train,
        "loop": _bench_loop,
        "checkpoint": _bench_checkpoint,
        "optimizers": _bench_optimizers,
        "data": _bench_data,
    }
    benches[args.what](args)
    return 0


def _bench_device(args: argparse.Namespace) -> int:
    from launch.bench.device import watch
    from launch.process.children import own_command

    # Checked before the child starts, which would die on a failed import, once for every check.
    watch.check_imports()

    # This process is the child, which holds the device.
    if args.first is not None:
        from launch.process.environment import prepare_process

        prepare_process()
        from launch.bench.device.checks import work_from

        work_from(args.first, small=args.small)
        return 0
    # By this Python: with only the sources there is no console script on PATH.
    command = own_command(["bench", "device", *(["--small"] if args.small else [])])
    # Progress goes to standard error, so that redirected output holds the table alone.
    report = watch.check_device(command, say=lambda text: print(text, file=sys.stderr, flush=True))
    watch.show(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    # 1 also for a script that only wants to know whether the device works.
    return 0 if report["passed"] else 1


def _bench_data(args: argparse.Namespace) -> None:
    # Here and in the functions below: a bench is imported, with jax or daft, only if it runs.
    from launch.bench.data.figures import bench_data

    bench_data(args)


def _bench_loop(args: argparse.Namespace) -> None:
    from launch.bench.loop import bench_loop

    bench_loop(args)


def _bench_optimizers(args: argparse.Namespace) -> None:
    from launch.bench.optimizers import bench_optimizers

    bench_optimizers(args)


def _bench_checkpoint(args: argparse.Namespace) -> None:
    import tempfile

    import jax

    from launch.bench.checkpoint import figures, lines, measure
    from model.mesh import make_mesh

    args.dir.mkdir(parents=True, exist_ok=True)
    # The state is sharded over all devices, as a training run would save it.
    mesh = make_mesh(fsdp=len(jax.devices()))
    # Below --dir, whose disk is measured: /tmp may be another disk, or memory.
    with jax.set_mesh(mesh), tempfile.TemporaryDirectory(dir=args.dir) as folder:
        rounds = measure(Path(folder) / "bench", gigabytes=args.gb, n_rounds=args.rounds, mesh=mesh)
    numbers = figures(rounds, interval_s=args.every)
    print(json.dumps(numbers) if args.json else "\n".join(lines(numbers, interval_s=args.every)))


def _bench_train(args: argparse.Namespace) -> None:
    import jax

    from launch.bench.train import describe, figures, lines, measure

    shape = shape_of(args.shape, args.set)
    mesh = shape.mesh.make()
    with jax.set_mesh(mesh):
        sentence, flops_per_token = describe(shape, mesh.size)
        if not args.json:
            print(sentence, flush=True)
        rounds = measure(shape, mesh, n_rounds=args.rounds)
    # of the global batch
    tokens = shape.batch_size * shape.seq_len
    numbers = figures(rounds, tokens=tokens, flops_per_token=flops_per_token, n_devices=mesh.size)
    if args.json:
        print(json.dumps({"shape": sentence, **numbers}))
    else:
        print("\n".join(lines(numbers, rounds, mesh.size)))


def shape_of(name: str, settings: Sequence[str]) -> Any:
    """The TrainShape of a name and `--set`.

    Raises:
        Problems: a setting or a value is wrong; all of them are listed.
    """
    from pydantic import ValidationError

    from launch.bench.train import SHAPES, TrainShape, shape_of_run
    from launch.job.load import load
    from launch.job.overrides import override
    from launch.job.problems import Problems, explain_all

    fields = SHAPES[name] if name in SHAPES else shape_of_run(_first_run(name, load(name).phases))
    # A deep copy, because `override` writes into the tree and SHAPES is shared by all calls.
    tree = {"train": copy.deepcopy(fields)}

    # `architecture.layers=4` is short for `train.architecture.layers=4`.
    full = [setting if setting.startswith("train.") else f"train.{setting}" for setting in settings]
    problems = override(tree, full)
    try:
        # As JSON: only from JSON does a strict model take a list for a tuple or text for a path.
        shape = TrainShape.model_validate_json(json.dumps(tree["train"]))
    except ValidationError as error:
        problems += explain_all(error, "train", tree["train"], TrainShape)
    if problems:
        raise Problems("bench train", problems)

    return shape


def _first_run(name: str, phases: dict[str, Any]) -> Any:
    from trainer.run import Run

    # A data phase has no architecture, and so no step to measure.
    runs = [phase for phase in phases.values() if isinstance(phase, Run)]
    if not runs:
        raise ValueError(f"{name} has no phase that trains; name a config that has one")
    return runs[0]
