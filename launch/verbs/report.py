"""The verb `report`: report.html of a run, whole or half done, or a page that compares several."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN … and where the page goes."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        type=Path,
        help="folder of a run, e.g. runs/tiny; several are compared",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="file to write (default: RUN/report.html, or comparison.html beside the runs)",
    )


def main(args: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    from launch.reporting.write import write_comparison, write_report

    # One run has a report of its own; a comparison needs at least two.
    is_one = len(args.runs) == 1
    print(write_report(args.runs[0], args.out) if is_one else write_comparison(args.runs, args.out))
    return 0
