"""Write the page of a run, or the page that compares several."""

import os
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.files import write_bytes
from launch.reporting.compare import comparison_page
from launch.reporting.record import read_run
from launch.reporting.run import run_page


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write RUN/report.html from what is in the run folder so far; returns its path.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    path = out or run_dir / "report.html"
    # In one rename, so that a browser never sees half a page.
    write_bytes(path, run_page(read_run(run_dir)).encode())
    return path


def write_comparison(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write one page about several runs; returns its path.

    Raises:
        FileNotFoundError: one of them is no folder.
    """
    # Beside the runs: the folder that all of them have in common.
    common = os.path.commonpath([each.resolve().parent for each in run_dirs])
    path = out or Path(common) / "comparison.html"
    runs = [read_run(each) for each in run_dirs]
    write_bytes(path, comparison_page(runs).encode())
    return path
