"""The verb `explain`: the reference of components and fields, from the classes themselves."""

import argparse
import json
from typing import Any

from launch.verbs.arguments import add_import_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME, and how it is printed."""
    parser.add_argument(
        "name",
        metavar="TYPE|FIELD",
        nargs="?",
        help="a component such as Llama, or a field such as optimizer.peak_lr; default: list them all",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")
    add_import_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Print what the name stands for."""
    from launch.process.environment import prepare_process

    prepare_process()
    from launch.job.load import import_components
    from launch.job.reference import components, entries, named

    for module in args.imports:
        import_components(module)
    if args.name is None:
        shown = {name: first_line(each) for name, each in components().items()}
        print(json.dumps(shown, indent=2) if args.json else "\n".join(columns(shown)))
        return 0

    found = named(args.name)
    # The same fields for a component, and for all places of a field.
    rows = [(args.name, each) for each in entries(found)] if isinstance(found, type) else found
    if args.json:
        print(
            json.dumps([{"component": title, **entry._asdict()} for title, entry in rows], indent=2)
        )
        return 0
    if isinstance(found, type):
        print(f"{found.__name__} ({found.__module__})\n\n{found.__doc__ or ''}")
    for title, entry in rows:
        where = entry.name if isinstance(found, type) else f"{title}.{entry.name}"
        default = "must be given" if entry.default is None else f"default {entry.default}"
        print(f"{where}: {entry.type}; {default}")
        if entry.text:
            print(f"    {entry.text}")
    return 0


def first_line(component: Any) -> str:
    """The beginning of a component's docstring."""
    return (component.__doc__ or "").strip().split("\n")[0]


def columns(texts: dict[str, str]) -> list[str]:
    """Names and texts below each other."""
    width = max(map(len, texts))
    return [f"{name:<{width}}  {text}" for name, text in texts.items()]
