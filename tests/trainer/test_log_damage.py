"""Logs are never needed to train: whatever a disk or a kill has made of them, a phase goes on, and says
once what is lost.
"""

import json
import time
from pathlib import Path

import pytest

from trainer.events import EVENTS_FILE, append_event, read_events
from trainer.records.damage import report_lost_rows, set_damage_aside
from trainer.records.goodput import CAUSES, PRODUCTIVE, Ledger
from trainer.records.metrics import METRICS_FILE, SAMPLES_FILE, MetricsWriter, read_metrics

LOGS = (METRICS_FILE, EVENTS_FILE, SAMPLES_FILE)
DAMAGE = {
    "half a line": b'{"step": 3, "time": 12.0, "loss/tr',
    "NULs": b"\0" * 4096,
    "no UTF-8": b'{"step": 3, "time": 1.0, "text": "\xff\xfe\xe2\x82"}',
    "brackets": b"[" * 100_000,
    "a step that is text": b'{"step": "3", "time": 1.0, "event": "start"}',
    "a step of nineteen digits": b'{"step": 9000000000000000000, "time": 1.0, "event": "start"}',
    "true as a step": b'{"step": true, "time": 1.0, "event": true}',
}


def live(folder: Path, first: int, last: int, *, started: float | None = None) -> Ledger:
    """A life of a phase, which makes steps `first` + 1 to `last`; as `execute` opens its logs."""
    said: list[str] = []

    def event(name: str, step: int, /, **what: str) -> None:
        append_event(folder, name, step, **what)
        said.append(name)

    set_damage_aside(folder, said.append)
    report_lost_rows(folder, first, event)
    ledger = Ledger(folder, first, active=True, started=started or time.time())
    metrics = MetricsWriter(folder, first)
    for number in range(first + 1, last + 1):
        ledger.stepped(number, 1e-4)
        metrics.write(number, {"loss/train": 1.0, "time/step_s": 1e-4, **ledger.row()})
        metrics.text(number, "samples/0", "one\u2028line")
    metrics.close()
    ledger.said = said
    return ledger


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_damaged_lines_are_set_aside_said_once_and_training_goes_on(tmp_path, damage, where):
    live(tmp_path, 0, 4)
    for name in LOGS:
        lines = (tmp_path / name).read_bytes().splitlines()
        place = {"first": 0, "middle": len(lines) // 2, "last": len(lines)}[where]
        (tmp_path / name).write_bytes(b"\n".join([*lines[:place], damage, *lines[place:]]))
    said = live(tmp_path, 4, 6).said
    assert len(said) == 3 and all("1 line could not be read" in line for line in said)
    assert live(tmp_path, 6, 7).said == []
    assert [row["step"] for row in read_metrics(tmp_path)] == list(range(1, 8))
    for name in LOGS:
        assert (tmp_path / f"{name}.damaged").read_bytes() == damage + b"\n"
        assert all(json.loads(line) for line in (tmp_path / name).read_bytes().split(b"\n")[:-1])
    assert len((tmp_path / SAMPLES_FILE).read_bytes().split(b"\n")[:-1]) == 7


@pytest.mark.parametrize("names", [LOGS, *((name,) for name in LOGS)], ids=str)
@pytest.mark.parametrize("left", ["missing", "empty"])
def test_missing_logs_stop_nothing_and_lost_rows_are_said_once(tmp_path, names, left):
    live(tmp_path, 0, 4)
    for name in names:
        (tmp_path / name).unlink() if left == "missing" else (tmp_path / name).write_text("")
    ledger = live(tmp_path, 4, 6)
    assert ledger.said == (["rows_lost"] if METRICS_FILE in names else [])
    assert live(tmp_path, 6, 7).said == []
    lost = [event["steps"] for event in read_events(tmp_path) if event["event"] == "rows_lost"]
    assert lost == (["1-4"] if METRICS_FILE in names else [])
    assert 0 <= ledger.row()["goodput/frac"] <= 1


def test_accounts_without_a_start_event_keep_what_they_say(tmp_path):
    live(tmp_path, 0, 4, started=time.time() - 100)
    (tmp_path / EVENTS_FILE).unlink()
    row = live(tmp_path, 4, 4).row()
    total = row[PRODUCTIVE] + sum(row[f"goodput/lost_s/{cause}"] for cause in CAUSES)
    assert 100 <= total < 160 and row["goodput/lost_s/start"] >= 99


def test_numbers_of_an_account_that_are_none_stop_nothing(tmp_path):
    live(tmp_path, 0, 4)
    for row in (
        {PRODUCTIVE: "much"},
        {PRODUCTIVE: 1e308, "goodput/lost_s/start": [1]},
        {PRODUCTIVE: None, "time": None},
        {"time/step_s": None, "time/data_wait_s": 0.0},
    ):
        with (tmp_path / METRICS_FILE).open("a") as file:
            file.write(json.dumps({"step": 4, "time": time.time() + 9, **row}) + "\n")
    append_event(tmp_path, "start", 4, began="then")
    assert live(tmp_path, 4, 5).row()[PRODUCTIVE] >= 0


@pytest.mark.parametrize("back_s", [20.0, 300.0, 1e8])
def test_a_clock_that_went_back_stops_nothing_and_no_cause_is_negative(
    tmp_path, monkeypatch, back_s
):
    began = time.time() - 50
    live(tmp_path, 0, 4, started=began)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - back_s)
    first = 4
    for _ in range(3):  # lives by the clock that has gone back
        row = live(tmp_path, first, first + 3, started=time.time() - 5).row()
        first += 3
        lost = [row[f"goodput/lost_s/{cause}"] for cause in CAUSES]
        assert min(lost) > -1e-6 and 50 <= sum(lost) + row[PRODUCTIVE] < 200
    assert row["goodput/lost_s/down"] < 60


def test_an_evaluation_that_is_repeated_after_the_last_step_leaves_one_row(tmp_path):
    for again in (False, True):
        writer = MetricsWriter(tmp_path, 5 if again else 0, evaluates_again=again)
        if not again:
            writer.write(5, {"loss/train": 1.0})
        writer.write(5, {"eval/web/loss": 2.0})
        writer.text(5, "samples/0", "text")
        writer.close()
    rows = read_metrics(tmp_path)
    assert [set(row) - {"step", "time"} for row in rows] == [{"loss/train"}, {"eval/web/loss"}]
    assert len((tmp_path / SAMPLES_FILE).read_text().splitlines()) == 1
