"""The arguments that name a configuration, shared by every verb that takes one."""

import argparse


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, --set a.b=value, --import package.module."""
    parser.add_argument("config", metavar="CONFIG", help="a config name (tiny), a .py file or a .yaml file")
    parser.add_argument(
        "--set",
        metavar="PHASE.FIELD=VALUE",
        action="append",
        default=[],
        help="override one field, e.g. pretrain.optimizer.peak_lr=3e-4; the value is YAML; may be repeated",
    )
    parser.add_argument(
        "--import",
        dest="imports",
        metavar="PACKAGE.MODULE",
        action="append",
        default=[],
        help="a module with components of your own; may be repeated",
    )
