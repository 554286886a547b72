"""The bench of the loop says by how much a step in it takes longer than one alone."""

import json

import pytest

from launch.bench.loop import Measured, Round, figures, lines
from tests.launch.command import meshwright


def test_overheads_are_taken_round_by_round_and_the_median_is_printed():
    rounds = [Round(0.05, 0.0505), Round(0.1, 0.102), Round(0.05, 0.1)]
    found = figures(Measured(rounds, host_s=0.001))
    assert found["overhead_frac"] == pytest.approx(0.02) and found["least_frac"] == pytest.approx(
        0.01
    )
    printed = "\n".join(lines({**found, "start_cold_s": 20.0, "start_warm_s": 12.5}))
    assert (
        "2.0%     (1.0% to 100.0%)" in printed
        and "1.00 ms a step in the loop's thread, 2.0% of 50 ms" in printed
    )
    assert "20.0 s from the process to the end of the first step" in printed and "12.5 s" in printed


@pytest.mark.slow
def test_the_loop_is_measured_around_real_steps(tmp_path):
    done = meshwright("bench", "loop", "--rounds", "1", "--json", cwd=tmp_path, timeout_s=900)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert all(
        found[name] > 0
        for name in ("bare_step_s", "loop_step_s", "host_s", "start_cold_s", "start_warm_s")
    )
