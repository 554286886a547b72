"""The verb `report`: report.html of a run, finished or not, or a page that compares several runs."""

import argparse
import json

from launch.verbs.arguments import local_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN … and where the page goes."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        type=local_folder,
        help="folder of a run, e.g. runs/tiny; several are compared",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=local_folder,
        help="file to write (default: RUN/report.html, or comparison.html beside the runs)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the numbers as JSON, and write no page"
    )


def main(args: argparse.Namespace) -> int:
    """Write the page and say where it is, or print the numbers.

    Raises:
        ValueError: --out stands beside --json.
    """
    if args.json:
        return _print_numbers(args)
    from launch.reporting.write import write_comparison, write_report

    # Without --out both choose the name of the file themselves, and return it.
    if len(args.runs) == 1:
        page = write_report(args.runs[0], args.out)
    else:
        page = write_comparison(args.runs, args.out)
    print(page)
    return 0


def _print_numbers(args: argparse.Namespace) -> int:
    from launch.reporting.as_json import runs_as_json
    from launch.reporting.record import read_run

    if args.out:
        raise ValueError(f"--out {args.out}: --json writes no page; leave one of them out")
    print(json.dumps({"runs": runs_as_json([read_run(each) for each in args.runs])}))
    return 0
