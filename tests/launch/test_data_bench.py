"""The bench of the data phase: it measures what the phase does, on real pages, and counts the work of child
processes.
"""

import json
import os
import subprocess
import sys
import time

import pytest

from launch.bench.data.end_to_end import Whole
from launch.bench.data.figures import beyond_start, measure, rows
from launch.bench.data.process_tree import Watch, cpu_s
from launch.bench.data.raw import raw_stages
from launch.bench.data.sample import N_FILES, Stage, sample
from launch.bench.data.text import text_stages
from tests.launch.command import meshwright

BURN = "import time; held = bytearray(30_000_000); end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
PARAGRAPH = "<p>The {n} history of the harbour was written by the people who had lived with it, and that is what we read of page {i}.</p>"


@pytest.fixture
def web(tmp_path):
    """A folder of small pages."""
    folder = tmp_path / "web"
    folder.mkdir()
    for i in range(2 * N_FILES):
        body = "".join(PARAGRAPH.format(n=n, i=i) for n in ("old", "new", "long", "short") * 4)
        (folder / f"{i}.html").write_text(
            f"<html><head><title>{i}</title></head><body><article>{body}</article></body></html>"
        )
    return folder


def test_all_pages_go_through_every_stage(web, tmp_path):
    taken = sample(web, tmp_path, n_bytes=10**5)
    assert len(taken.web) == len(taken.pages) == 2 * N_FILES
    assert sum(len(document.text) for document in taken.code) >= 10**5
    stages = [*raw_stages(taken, tmp_path / "work"), *text_stages(taken, tmp_path)]
    measured = measure(stages, n_rounds=1)
    assert all(speed > 0 for _, speeds in measured for speed in speeds)
    assert {stage.bound for stage in stages} - {""} <= {stage.name for stage in stages}
    assert len({stage.name for stage in stages}) == len(rows(measured)) == len(stages)


def test_too_few_pages_are_refused(web, tmp_path):
    with pytest.raises(ValueError, match=f"holds 3 pages and the bench needs {N_FILES}"):
        sample(web, tmp_path, n_bytes=5_000)


def test_a_stage_is_told_by_its_share_of_its_bound():
    work = {"bound": 0.02, "stage": 0.08}

    def burn(seconds: float):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    stages = [
        Stage(name, 1.0, "MB", lambda s=s: burn(s), "" if name == "bound" else "bound", "least")
        for name, s in work.items()
    ]
    (_, *bound), (_, *stage) = rows(measure(stages, n_rounds=3))
    assert bound[-2:] == ["least", ""] and stage[-2] == "bound"
    assert 5 < float(stage[-1].rstrip("%")) < 60  # 25 % of it, whatever else the machine does


def test_work_of_children_is_counted():
    before = cpu_s()
    child = subprocess.Popen([sys.executable, "-c", f"{BURN}\ntime.sleep(60)"])
    watch = Watch(os.getpid())
    try:
        while cpu_s() - before < 0.4:
            time.sleep(0.05)
    finally:
        child.kill()
        child.wait()
    assert watch.stop() > 0.3
    assert watch.peak_bytes > 30_000_000


def test_what_starting_costs_is_left_out():
    half, full = (Whole(1, n * 10**6, 9.0, 7.0 + n * 0.1, 0, {}) for n in (10, 20))
    assert beyond_start(half, full) == pytest.approx(100.0)


@pytest.mark.slow
def test_the_command_measures_every_stage_and_the_whole(tmp_path):
    done = meshwright("bench", "data", "--mb", "8", "--rounds", "1", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"WARC read", "MinHash", "encode", "loader", "pack plan"} <= found["stages"].keys()
    assert [run["workers"] for run in found["whole"]] == [1, 1, 2, 2]
    assert all(run["peak_bytes"] > 1e8 and run["cpu_s"] > 0 for run in found["whole"])
