"""The verb `data`: what is in token shards, whether it is still what was written, and which documents a
training step saw.
"""

import argparse
import importlib

from launch.verbs.arguments import add_import_argument, local_folder

# name -> (module of launch/shards, what it does); the function in the module has the action's name
ACTIONS = {
    "inspect": ("inspect", "a folder of shards in words, and a document of it as text"),
    "verify": (
        "verify",
        "compare every file with its SHA-256, and name the record and document that was changed",
    ),
    "stats": (
        "stats",
        "documents, tokens, lengths, packing, fertility, and what was dropped by source and rule",
    ),
    "check": (
        "check",
        "look in finished shards for the text of an evaluation task that was not known when they were made",
    ),
    "append": ("append", "add new documents of the sources of a finished data phase to its shards"),
    "at": ("origin", "the documents that a training step reads, past or future"),
    "seen": ("origin", "the training steps that have read a document"),
}
RUN = "the folder of a run such as runs/tiny"
SHARDS = "a folder of shards such as runs/tiny/data/train/web"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A parser for each action."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    parsers = {
        name: actions.add_parser(
            name,
            help=text,
            # argparse prints the description as a paragraph, so it should be a sentence.
            description=text[0].upper() + text[1:] + ".",
            allow_abbrev=False,
        )
        for name, (_, text) in ACTIONS.items()
    }
    _add_paths(parsers)
    parsers["inspect"].add_argument(
        "--document", metavar="N|ID", help="show this one: its number (from 0) or its id"
    )
    parsers["inspect"].add_argument(
        "--text",
        action="store_true",
        help="print the text of the document, whole, and nothing else",
    )
    parsers["stats"].add_argument(
        "--seq-len",
        metavar="N",
        type=int,
        help="also say how full rows of N positions are (best fit)",
    )
    parsers["check"].add_argument(
        "--task",
        metavar="YAML",
        action="append",
        required=True,
        help="the task as in a config, e.g. '{type: Questions, name: gsm8k, path: test.jsonl, "
        "question: [question], answer: answer}'; may be repeated",
    )
    _add_origins(parsers)
    for name in ("inspect", "check"):
        parsers[name].add_argument(
            "--tokenizer",
            metavar="FILE",
            type=local_folder,
            help="default: tokenizer.model in a folder above the shards",
        )
    for name in ("inspect", "verify", "stats", "check", "at", "seen"):
        parsers[name].add_argument("--json", action="store_true", help="print JSON, for machines")
    for each in parsers.values():
        each.set_defaults(parser=each)
    # They read configurations or tasks, which may name components of the user's own.
    for name in ("check", "append", "at", "seen"):
        add_import_argument(parsers[name])


def _add_paths(parsers: dict[str, argparse.ArgumentParser]) -> None:
    parsers["inspect"].add_argument("path", metavar="SHARDS", type=local_folder, help=SHARDS)
    for name in ("verify", "stats", "check"):
        parsers[name].add_argument(
            "path",
            metavar="RUN|FOLDER",
            type=local_folder,
            help=f"a run, its data folder, or {SHARDS}",
        )


def _add_origins(parsers: dict[str, argparse.ArgumentParser]) -> None:
    parsers["append"].add_argument("run", metavar="RUN", type=local_folder, help=RUN)
    parsers["append"].add_argument(
        "--from",
        dest="start",  # `args.from` would be a syntax error
        metavar="FOLDER",
        type=local_folder,
        help="where relative paths of the sources begin (default: where the data phase was run)",
    )
    for name, otherwise in (("at", "the only one"), ("seen", "all of them")):
        add_run_arguments(parsers[name])
        parsers[name].add_argument(
            "--phase",
            metavar="NAME",
            help=f"a trained phase such as pretrain (default: {otherwise})",
        )
    parsers["seen"].add_argument(
        "document", metavar="DOCUMENT_ID", help="as `data inspect` and `data at` print it"
    )
    parsers["at"].add_argument(
        "--step", metavar="N", type=int, required=True, help="the step, from 1"
    )
    parsers["at"].add_argument("--text", action="store_true", help="print the text of every span")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, which may also be written `--run RUN`; see `launch.shards.origin.run_of`."""
    # "?": RUN may be left out, because `--run` can name it; `run_of` refuses none and both.
    parser.add_argument("run", metavar="RUN", type=local_folder, nargs="?", help=RUN)
    parser.add_argument(
        "--run", dest="run_option", metavar="RUN", type=local_folder, help="the same"
    )


def main(args: argparse.Namespace) -> int:
    """Call the function of launch/shards that has the name of the action."""
    module, _ = ACTIONS[args.action]
    # Imported by name, so that `--help` imports none of the modules.
    getattr(importlib.import_module(f"launch.shards.{module}"), args.action)(args)
    return 0
