"""The verb `show`: the effective configuration as YAML that runs the same."""

import argparse
import json
import shlex
import sys

from launch.verbs.arguments import add_config_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of a configuration alone: CONFIG, --set, --import."""
    add_config_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def main(args: argparse.Namespace) -> int:
    """Print the validated configuration behind the command that made it."""
    from launch.process.environment import prepare_process

    prepare_process()
    from launch.job.load import dump, load
    from launch.job.yaml import to_yaml

    job = load(args.config, args.set, args.imports)
    if args.json:
        print(json.dumps(dump(job.phases), indent=2))
        return 0
    # As a YAML comment, so that the output can be saved and run as it is.
    print(f"# {shlex.join(['meshwright', *args.argv])}")
    sys.stdout.write(to_yaml(dump(job.phases)))
    return 0
