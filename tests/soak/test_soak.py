"""The soak itself: its faults are all kinds, its damage is damage, its table adds up; one short soak of
real processes.
"""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.job import phase
from tests.launch.command import ROOT, environment
from tests.soak.faults import FAULTS, cut_short, delete, drawn, flip_bit
from tests.soak.scoreboard import Outcome, table


def test_every_kind_of_fault_comes_before_one_comes_again() -> None:
    names = drawn(2 * len(FAULTS) + 3, random.Random(0))
    assert (
        set(names[: len(FAULTS)]) == set(names[len(FAULTS) : 2 * len(FAULTS)]) == FAULTS.keys()
        and len(names) == 2 * len(FAULTS) + 3
    )
    assert names != drawn(len(names), random.Random(1)) and names == drawn(
        len(names), random.Random(0)
    )


@pytest.mark.parametrize("damage", [flip_bit, cut_short, delete])
@pytest.mark.parametrize("seed", range(4))
def test_damage_changes_one_of_the_large_files_of_the_newest_checkpoint(
    damage, seed, tmp_path: Path
) -> None:
    for step in (8, 16):
        for i, size in enumerate((900, 800, 700, 600, 5, 0)):
            path = phase(tmp_path) / f"checkpoints/{step}/params/d/{i}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(size))
    before = contents(tmp_path)
    damage(tmp_path, random.Random(seed))
    after = contents(tmp_path)
    (changed,) = (path for path, content in before.items() if after.get(path) != content)
    assert "checkpoints/16/" in str(changed) and len(before[changed]) >= 600


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_table_has_a_line_a_kind_and_one_for_all() -> None:
    outcomes = [
        Outcome("kill both", 12, 75, True, 2, 0.5, 4.0),
        Outcome("full disk", 30, None, True, 0),
        Outcome("kill both", 40, 75, False, detect_s=1.5),
    ]
    cells = [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in table(outcomes)
    ]
    assert cells[1:] == [
        ["full disk", "1", "1", "0.0 (max 0.0)", "-", "-"],
        ["kill both", "2", "1", "2.0 (max 2.0)", "1.0 (max 1.5)", "4.0 (max 4.0)"],
        ["all", "3", "2", "1.0 (max 2.0)", "1.0 (max 1.5)", "4.0 (max 4.0)"],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("faults", [0, len(FAULTS)], ids=["the same run twice", "every fault"])
def test_a_soaked_run_ends_with_the_bits_of_the_undisturbed_one(faults: int) -> None:
    command = [sys.executable, "-m", "tests.soak", "--faults", str(faults)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0 and "equal to the last bit" in done.stdout, (
        done.stdout + done.stderr
    )
