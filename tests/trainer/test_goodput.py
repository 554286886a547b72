"""Every second of a phase has one cause, over all its lives, however they ended."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.launch.command import until
from trainer.events import EVENTS_FILE, append_event, read_events
from trainer.records.goodput import CAUSES, PRODUCTIVE, Ledger, process_started
from trainer.records.metrics import MetricsWriter, read_metrics

ROOT = Path(__file__).parents[2]
BIRTH = 1_000_000.0


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = BIRTH

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now - BIRTH / 2)
    return clock


class Life:
    """One process's work on a phase, as the loop tells it; it ends without a word unless `close` is
    called.
    """

    def __init__(self, folder: Path, clock: Clock, first_step: int, *, start_s: float):
        self.clock, started = clock, clock.now
        clock.sleep(start_s)
        self.ledger = Ledger(folder, first_step, active=True, started=started)
        self.metrics, self.number = MetricsWriter(folder, first_step), first_step

    def steps(
        self, n: int, *, seconds: float, lost_to: str | None = None, account_every: int = 1
    ) -> None:
        for _ in range(n):
            self.number += 1
            self.clock.sleep(seconds)
            self.ledger.stepped(self.number, float(seconds), lost_to=lost_to)
            row = self.ledger.row() if self.number % account_every == 0 else {}
            self.metrics.write(
                self.number, {"time/step_s": seconds, "time/data_wait_s": 0.0, **row}
            )
        self.metrics.flush()

    def spend(self, cause: str, seconds: float) -> None:
        with self.ledger.spent(cause):
            self.clock.sleep(seconds)

    def back_to(self, step: int) -> None:
        self.ledger.back_to(step)
        self.metrics.back_to(step)
        self.number = step

    def close(self) -> None:
        self.ledger.close()
        self.metrics.close()


def account(life: Life) -> dict[str, float]:
    """What the ledger says now: seconds by cause other than 0, and `steps`; checked to add up to all time."""
    row = life.ledger.row()
    found = {cause: row[f"goodput/lost_s/{cause}"] for cause in CAUSES} | {"steps": row[PRODUCTIVE]}
    assert sum(found.values()) == pytest.approx(life.clock.now - BIRTH)
    assert row["goodput/frac"] == pytest.approx(row[PRODUCTIVE] / (life.clock.now - BIRTH))
    return {cause: seconds for cause, seconds in found.items() if abs(seconds) > 1e-6}


def test_the_seconds_of_one_life_have_their_causes(tmp_path, clock):
    life = Life(tmp_path, clock, 0, start_s=20)
    life.spend("restore", 5)
    life.steps(1, seconds=9)
    life.steps(3, seconds=2)
    life.spend("evaluate", 7)
    life.spend("checkpoint", 0.25)
    clock.sleep(0.5)
    assert account(life) == pytest.approx(
        {"start": 27, "restore": 5, "evaluate": 7, "checkpoint": 0.25, "other": 0.5, "steps": 8}
    )


def test_what_is_done_between_the_end_of_a_step_and_its_report_counts_once(tmp_path, clock):
    life = Life(tmp_path, clock, 0, start_s=1)
    clock.sleep(9 + 1.5)
    life.ledger.stepped(1, 9.0)
    clock.sleep(0.5)
    life.ledger.stepped(2, 2.0)
    assert account(life) == pytest.approx({"start": 8, "steps": 4})


def test_a_wait_for_data_is_taken_off_the_step_unless_devices_worked_meanwhile(tmp_path, clock):
    life = Life(tmp_path, clock, 0, start_s=1)
    life.steps(2, seconds=2)
    for hidden in (True, False):
        with life.ledger.spent("data", hidden=lambda hidden=hidden: hidden):
            clock.sleep(0.75)
        clock.sleep(1.25)
        life.ledger.stepped(life.number + 1, 2.0)
        life.number += 1
    assert account(life) == pytest.approx({"start": 1, "data": 0.75, "steps": 7.25})


def test_what_is_spent_inside_on_another_cause_counts_once(tmp_path, clock):
    life = Life(tmp_path, clock, 0, start_s=1)
    life.steps(2, seconds=1)
    with life.ledger.spent("evaluate"):
        clock.sleep(3)
        life.spend("checkpoint", 2)
        clock.sleep(1)
    clock.sleep(1)
    life.ledger.stepped(3, 7.0)
    assert account(life) == pytest.approx({"start": 1, "evaluate": 4, "checkpoint": 2, "steps": 3})


def test_a_killed_life_loses_the_steps_behind_the_checkpoint_and_the_time_until_the_next(
    tmp_path, clock
):
    Life(tmp_path, clock, 0, start_s=10).steps(7, seconds=2)
    clock.sleep(30)
    life = Life(tmp_path, clock, 4, start_s=6)
    life.steps(4, seconds=2)
    assert account(life) == pytest.approx({"start": 16, "redone": 6, "down": 30, "steps": 16})
    assert [row["step"] for row in read_metrics(tmp_path)] == list(range(1, 9))


def test_steps_behind_the_last_account_of_a_killed_life_are_known_by_their_rows(tmp_path, clock):
    Life(tmp_path, clock, 0, start_s=10).steps(9, seconds=2, account_every=4)
    clock.sleep(30)
    assert account(Life(tmp_path, clock, 4, start_s=6)) == pytest.approx(
        {"start": 16, "redone": 10, "down": 30, "steps": 8}
    )


def test_a_life_that_ends_before_its_first_row_forgets_nothing(tmp_path, clock):
    Life(tmp_path, clock, 0, start_s=10).steps(7, seconds=2)
    clock.sleep(30)
    Life(tmp_path, clock, 4, start_s=6)
    clock.sleep(40)
    life = Life(tmp_path, clock, 2, start_s=5)
    assert account(life) == pytest.approx({"start": 21, "redone": 10, "down": 70, "steps": 4})


def test_a_life_that_ends_between_ledger_and_metrics_does_not_count_its_steps_twice(
    tmp_path, clock
):
    Life(tmp_path, clock, 0, start_s=10).steps(7, seconds=2)
    Ledger(tmp_path, 4, active=True, started=clock.now)  # metrics.jsonl is not yet cut
    life = Life(tmp_path, clock, 4, start_s=0)
    assert account(life) == pytest.approx({"start": 10, "redone": 6, "steps": 8})


def test_what_a_life_spent_after_its_last_row_is_known_when_it_was_long(tmp_path, clock):
    first = Life(tmp_path, clock, 0, start_s=1)
    first.steps(4, seconds=2)
    clock.sleep(1)
    first.spend("evaluate", 12)
    clock.sleep(20)
    life = Life(tmp_path, clock, 4, start_s=1)
    assert account(life) == pytest.approx(
        {"start": 2, "steps": 8, "evaluate": 12, "other": 1, "down": 20}
    )


def test_a_life_that_closed_its_account_was_down_only_after_that(tmp_path, clock):
    first = Life(tmp_path, clock, 0, start_s=1)
    first.steps(4, seconds=2)
    clock.sleep(3)
    first.close()
    clock.sleep(20)
    assert account(Life(tmp_path, clock, 4, start_s=1)) == pytest.approx(
        {"start": 2, "steps": 8, "other": 3, "down": 20}
    )


def test_a_rollback_loses_steps_also_of_earlier_lives(tmp_path, clock):
    Life(tmp_path, clock, 0, start_s=1).steps(6, seconds=2)
    life = Life(tmp_path, clock, 6, start_s=0)
    life.steps(4, seconds=1)
    life.back_to(5)
    life.steps(2, seconds=1)
    assert account(life) == pytest.approx({"start": 1, "redone": 6, "steps": 12})
    assert [row["step"] for row in read_metrics(tmp_path)] == list(range(1, 8))


def test_steps_without_an_update_do_not_count(tmp_path, clock):
    life = Life(tmp_path, clock, 0, start_s=1)
    life.steps(3, seconds=2)
    life.steps(2, seconds=2, lost_to="skipped")
    assert account(life) == pytest.approx({"start": 1, "steps": 6, "skipped": 4})


def random_life(
    rng: random.Random, life: Life, seconds_of: dict[int, float], checkpoint: int
) -> int:
    """Steps, saves, rollbacks and other work; `seconds_of` are those of the steps that count. The last
    checkpoint.
    """
    for _ in range(rng.randrange(12)):
        seconds_of[life.number + 1] = rng.random()
        life.steps(1, seconds=seconds_of[life.number + 1])
        if rng.random() < 0.2:
            checkpoint = life.number
        if rng.random() < 0.3:
            life.spend(rng.choice(["evaluate", "checkpoint", "data"]), rng.random())
        if rng.random() < 0.1:
            life.back_to(checkpoint)
            forget(seconds_of, checkpoint)
    return checkpoint


def forget(seconds_of: dict[int, float], checkpoint: int) -> None:
    for step in [step for step in seconds_of if step > checkpoint]:
        del seconds_of[step]


def test_any_lives_add_up_and_only_steps_of_the_final_lineage_count(tmp_path, clock):
    rng = random.Random(0)
    for phase in range(12):
        clock.now, seconds_of, checkpoint = BIRTH, {}, 0
        for _ in range(rng.randrange(1, 5)):
            forget(seconds_of, checkpoint)
            life = Life(tmp_path / str(phase), clock, checkpoint, start_s=rng.random())
            checkpoint = random_life(rng, life, seconds_of, checkpoint)
            clock.sleep(rng.random())
        found = account(life)
        assert found.get("steps", 0.0) == pytest.approx(sum(seconds_of.values()), abs=4), (
            "but for a part of the first step of each life"
        )
        assert min(found.values()) > 0


def test_a_torn_last_event_is_left_out_and_the_next_stands_on_its_own_line(tmp_path):
    append_event(tmp_path, "spike", 3, loss=float("nan"), rows=[8, 16])
    with (tmp_path / EVENTS_FILE).open("a") as file:
        file.write('{"time": 12, "eve')
    append_event(tmp_path, "saved", 4)
    assert [(event["event"], event["step"]) for event in read_events(tmp_path)] == [
        ("spike", 3),
        ("saved", 4),
    ]
    assert read_events(tmp_path)[0]["loss"] is None and read_events(tmp_path)[0]["rows"] == [8, 16]


def test_an_event_that_cannot_be_written_is_said_and_stops_nobody(tmp_path, capsys):
    append_event(tmp_path / "nowhere", "spike", 3)
    assert '"event": "spike"' in capsys.readouterr().err


def test_a_process_that_is_not_active_reads_and_writes_nothing(tmp_path):
    ledger = Ledger(tmp_path / "phase", 0, active=False, started=time.time())
    with ledger.spent("data"):
        ledger.event("spike", 1)
    ledger.stepped(1, 0.0)
    ledger.close()
    assert not (tmp_path / "phase").exists()


def test_a_cause_that_is_none_is_an_error(tmp_path):
    ledger = Ledger(tmp_path, 0, active=True, started=time.time())
    with pytest.raises(KeyError), ledger.spent("holiday"):
        pass


PROGRAM = """if True:
    import pathlib, sys, time
    from trainer.records.goodput import Ledger, process_started
    from trainer.records.metrics import MetricsWriter
    folder, first, last = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    ledger = Ledger(folder, first, active=True, started=process_started())
    metrics = MetricsWriter(folder, first)
    for number in range(first + 1, last + 1):
        began = time.perf_counter()
        with ledger.spent("data"):
            time.sleep(0.01)
        time.sleep(0.02)
        ledger.stepped(number, time.perf_counter() - began)
        metrics.write(number, {"loss/train": 1.0, **ledger.row()})
        if number % 5 == 0:
            with ledger.spent("evaluate"):
                time.sleep(0.05)
    ledger.close()
    metrics.close()"""


def begun(folder: Path, first: int, last: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(first), str(last)], cwd=ROOT
    )


def last_row(folder: Path) -> dict[str, Any]:
    return ([{}, *read_metrics(folder)])[-1]


def test_real_lives_with_a_kill_add_up_to_the_wall_clock(tmp_path):
    began = time.time()
    process = begun(tmp_path, 0, 10_000)
    until(lambda: last_row(tmp_path).get("step", 0) >= 23, "23 steps")
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed, known = time.time(), last_row(tmp_path)
    before_checkpoint = {row["step"]: row[PRODUCTIVE] for row in read_metrics(tmp_path)}[20]
    assert begun(tmp_path, 20, 40).wait() == 0
    ended = time.time()
    (*_, end) = [event for event in read_events(tmp_path) if event["event"] == "end"]
    lost = {cause: end[f"goodput/lost_s/{cause}"] for cause in CAUSES}
    wall_s = end["time"] - min(
        event["began"] for event in read_events(tmp_path) if event["event"] == "start"
    )
    assert sum(lost.values()) + end[PRODUCTIVE] == pytest.approx(wall_s, rel=0.01)
    assert 0.9 * (ended - began) < wall_s <= ended - began + 0.1
    assert lost["redone"] == pytest.approx(known[PRODUCTIVE] - before_checkpoint, abs=1e-6)
    assert 0 <= lost["down"] < ended - known["time"] and killed < ended
    assert lost["data"] >= 43 * 0.01 and lost["evaluate"] >= 7 * 0.05
    assert all(json.loads(line) for line in (tmp_path / EVENTS_FILE).read_text().splitlines())


def test_the_process_began_before_now_and_after_its_parent():
    assert time.time() - 24 * 3600 < process_started() < time.time()
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            "from trainer.records.goodput import process_started; print(process_started())",
        ],
        cwd=ROOT,
        capture_output=True,
    )
    assert process_started() < float(child.stdout) < time.time()


def test_an_event_may_tell_of_a_folder_a_name_and_a_step(tmp_path):
    append_event(tmp_path, "save_failed", 3, folder="elsewhere", why="full")
    assert [
        (event["event"], event["step"], event["folder"]) for event in read_events(tmp_path)
    ] == [("save_failed", 3, "elsewhere")]


def test_a_life_that_ended_before_its_first_row_is_taken_over(tmp_path):
    for started in (100.0, 200.0, 300.0):
        ledger = Ledger(tmp_path, 0, active=True, started=started)
    assert ledger.row()["goodput/productive_s"] == 0.0
