"""The verb `report`: report.html of a run, whole or half done, or a page that compares several."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN … and where the page goes."""
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folder of a run, e.g. runs/tiny; several are compared")
    parser.add_argument("--out", metavar="FILE", type=Path, help="the page (default: RUN/report.html, or comparison.html beside the runs)")


def main(args: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    print(write_report(args.runs[0], args.out) if len(args.runs) == 1 else write_comparison(args.runs, args.out))
    return 0


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write RUN/report.html from whatever stands in the run folder so far, in one rename; returns its path.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    from data_pipeline.files import write_bytes
    from launch.reporting.record import read_run
    from launch.reporting.run import run_page

    path = out or run_dir / "report.html"
    write_bytes(path, run_page(read_run(run_dir)).encode())
    return path


def write_comparison(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page about several runs; returns its path.

    Raises:
        FileNotFoundError: one of them is no folder.
    """
    from data_pipeline.files import write_bytes
    from launch.reporting.compare import comparison_page
    from launch.reporting.record import read_run

    path = out or Path(os.path.commonpath([each.resolve().parent for each in run_dirs])) / "comparison.html"
    write_bytes(path, comparison_page([read_run(each) for each in run_dirs]).encode())
    return path
