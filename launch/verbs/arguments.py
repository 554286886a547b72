"""Arguments that several verbs share."""

import argparse
import re
from pathlib import Path

CONFIGS = Path(__file__).parent.parent / "configs"


def local_folder(text: str) -> Path:
    """The type of arguments that name a file or folder of ours: `~` is the home directory, also in quotes
    and behind `=`, where no shell expands it.

    Raises:
        ArgumentTypeError: it is a URL.
    """
    if re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE):
        remedy = "name a local or mounted folder, and copy it there afterwards"
        raise argparse.ArgumentTypeError(
            f"{text} is a URL, and runs are written to file systems alone; {remedy}"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError:  # there is no such user, or no HOME
        raise argparse.ArgumentTypeError(
            f"{text}: there is no home directory to put for ~; write it out"
        ) from None


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, --set a.b=value, --import package.module."""
    # by their files: importing one would cost seconds
    names = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.py")))
    parser.add_argument(
        "config", metavar="CONFIG", help=f"a .py file, a .yaml file, or the name of one of: {names}"
    )
    parser.add_argument(
        "--set",
        metavar="PHASE.FIELD=VALUE",
        action="append",
        default=[],  # argparse copies it before it appends, so parses do not share it
        help="override one field, e.g. pretrain.optimizer.peak_lr=3e-4, or '*.architecture.width=256' "
        "in all phases that have it; the value is YAML; may be repeated",
    )
    add_import_argument(parser)


def add_import_argument(parser: argparse.ArgumentParser) -> None:
    """--import package.module, for every verb that reads a configuration with a user's own components."""
    parser.add_argument(
        "--import",
        dest="imports",  # `args.import` would be a syntax error
        metavar="PACKAGE.MODULE",
        action="append",
        default=[],
        help="a module with components of your own; may be repeated",
    )
