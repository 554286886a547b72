"""Arguments that several verbs share."""

import argparse


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, --set a.b=value, --import package.module."""
    parser.add_argument(
        "config", metavar="CONFIG", help="a config name (tiny), a .py file or a .yaml file"
    )
    parser.add_argument(
        # argparse's `append` copies the default before it appends, so this list is not shared
        # between parses.
        "--set",
        metavar="PHASE.FIELD=VALUE",
        action="append",
        default=[],
        help="override one field, e.g. pretrain.optimizer.peak_lr=3e-4; the value is YAML; may be repeated",
    )
    add_import_argument(parser)


def add_import_argument(parser: argparse.ArgumentParser) -> None:
    """--import package.module, for whatever reads a configuration with components of the user's own."""
    parser.add_argument(
        "--import",
        dest="imports",  # `import` is no name that Python lets one write behind a dot
        metavar="PACKAGE.MODULE",
        action="append",
        default=[],
        help="a module with components of your own; may be repeated",
    )
