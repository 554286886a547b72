"""What is read of a run folder is what stands there; what is damaged is said, never an error; health
follows from it.
"""

import json
import math

import pytest

from launch.reporting.health import clock, events, goodput, incidents, verdict
from launch.reporting.numbers import hours, tokens
from launch.reporting.phase import phase_section
from launch.reporting.record import read_columns, read_run
from tests.launch.test_report import Page
from trainer.events import json_lines
from trainer.records.metrics import read_metrics


def write(folder, rows, events=()):
    """A phase `p` that is at work; returns its record."""
    phase = folder / "p"
    phase.mkdir(exist_ok=True)
    (phase / "metrics.jsonl").write_text(
        "".join(json.dumps({"time": 1e9 + row["step"], **row}) + "\n" for row in rows)
    )
    (phase / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return read_run(folder).phases[0]


def test_columns_are_the_numbers_of_metrics_jsonl(tmp_path):
    rows = [
        {
            "step": step,
            "loss/train": 1 / step if step != 3 else None,
            **({"eval/a/loss": 2.0} if step == 4 else {}),
        }
        for step in range(1, 6)
    ]
    columns = write(tmp_path, rows).columns
    for name in ("loss/train", "eval/a/loss"):
        expected = [(row["step"], row[name]) for row in read_metrics(tmp_path / "p") if name in row]
        found = list(zip(columns[name].steps.tolist(), columns[name].values.tolist(), strict=True))
        assert str(found) == str(expected)  # NaN is not equal to itself


def test_a_step_that_was_gone_through_again_counts_as_it_went_the_last_time(tmp_path):
    rows = [{"step": step, "loss/train": float(i)} for i, step in enumerate([1, 2, 3, 4, 3, 4, 5])]
    column = write(tmp_path, rows).columns["loss/train"]
    assert column.steps.tolist() == [1, 2, 3, 4, 5] and column.values.tolist() == [0, 1, 4, 5, 6]


def test_torn_and_foreign_lines_are_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 1, "a": 2.0}\n[1]\n\xff\xfe{"st\n{"time": 3}\n{"step": "x", "a": 1.0}\n{"step": 2, "a": 3.0}\n{"step": 3, "a'
    )
    assert read_columns(path)["a"].values.tolist() == [2.0, 3.0]
    assert len(list(json_lines(path))) == 4 and read_columns(tmp_path / "absent") == {}


@pytest.mark.parametrize("time", ["noon", 1e20, -1e17, math.nan, True, [0.0], None])
def test_an_event_whose_time_is_none_is_shown_without_one(tmp_path, time):
    log = [{"time": 1e9, "event": "saved"}, {"time": time, "event": "noted"}]
    phase = write(tmp_path, [{"step": 1, "loss/train": 1.0}], log)
    page = Page(events(phase))
    assert "2001-09-09 01:46:40" in page.text and "noted" in page.text
    assert clock(phase.last("time")) and not clock(time)


@pytest.mark.parametrize(
    ("row", "log", "expected"),
    [
        ({}, [], "good"),
        ({"guard/skipped": 2.0, "guard/streak": 0.0}, [], "warn"),
        ({"guard/streak": 3.0}, [], "bad"),
        ({"loss/train": None}, [], "bad"),
        ({}, [{"event": "saved"}, {"event": "preempted"}], "good"),
        ({}, [{"event": "save_failed"}, {"event": "saved"}], "warn"),
        ({}, [{"event": "saved"}, {"event": "hang"}], "bad"),
        ({}, [{"event": "hang"}, {"event": "start"}], "warn"),
    ],
    ids=[
        "calm",
        "skipped",
        "in a streak",
        "no number",
        "preempted",
        "save failed",
        "hung",
        "hung before",
    ],
)
def test_the_verdict_says_whether_it_went_on(tmp_path, row, log, expected):
    assert verdict(write(tmp_path, [{"step": 1, "loss/train": 1.0, **row}], log)) == expected


def test_what_went_wrong_is_counted_once_by_log_or_counter(tmp_path):
    log = [{"event": "spike"}, {"event": "spike"}, {"event": "damaged"}, {"event": "saved"}, {}]
    found = incidents(
        write(
            tmp_path,
            [{"step": 1, "guard/spikes": 1.0, "guard/rollbacks": 1.0, "checkpoint/failed": 0.0}],
            log,
        )
    )
    assert found == {"spike": 2, "damaged": 1, "rollback": 1}


def test_a_spike_that_changed_nothing_is_an_event_with_its_step_and_loss_and_no_trouble(tmp_path):
    rows = [
        {"step": step, "loss/train": 9.5 if step == 3 else 2.0, "guard/spikes": float(step >= 3)}
        for step in range(1, 101)
    ]
    phase = write(tmp_path, rows, [{"time": 1e9, "event": "start", "step": 0}])
    assert verdict(phase) == "good" and incidents(phase) == {"spike": 1}
    html = events(phase)
    assert "loss: 9.500" in html and "its update: dropped" in html and "warn" not in html
    assert html.index("<td>3</td>") < html.index("<td>0</td>"), "newest first"
    many = [{**row, "guard/spikes": row["step"] / 2} for row in rows]
    assert verdict(write(tmp_path, many)) == "warn", "half of all steps are no few"


def test_the_log_is_escaped_newest_first_and_counts_what_happens_all_the_time(tmp_path):
    log = [
        {"time": 1e9 + i, "life": 0, "step": i, "event": "saved", "bytes": 5} for i in range(300)
    ]
    log += [
        {
            "time": 1.1e9 + i - 700,
            "life": 1,
            "step": i,
            "event": "rollback",
            "why": "<b>8</b> bad steps",
        }
        for i in range(700)
    ]
    html = events(write(tmp_path, [{"step": 1}], log))
    text = Page(html).text
    assert "<b>8" not in html and "why: <b>8</b> bad steps" in text
    assert text.index("2004-11-09 11:33:19") < text.index("2004-11-09 11:33:18"), (
        "newest first, in UTC"
    )
    assert "300\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}saved" in text and html.count("<tr>") < 600


def test_the_bar_of_goodput_has_all_causes_and_fills_the_whole(tmp_path):
    row = {
        "step": 9,
        "goodput/frac": 0.75,
        "goodput/lost_s/compile": 30.0,
        "goodput/lost_s/start": 20.0,
        "goodput/lost_s/data": 0.0,
    }
    text = Page(goodput(write(tmp_path, [row]))).text
    assert (
        "steps that count 75.0%" in text
        and "compile 30 s, 15.0%" in text
        and "start 20 s, 10.0%" in text
        and "data" not in text
    )


def test_tokens_are_as_counted_by_source_or_follow_from_the_speed(tmp_path):
    rows = [
        {
            "step": step,
            "throughput/tokens_per_s": 50.0,
            "time/step_s": 2.0,
            "time/evaluate_s": 60.0 * (step == 6),
        }
        for step in (2, 4, 6)
    ]
    phase = write(tmp_path, rows)
    assert tokens(phase).values.tolist() == [
        0,
        200,
        400,
        600,
    ]  # a row stands for the steps since the one before
    assert (hours(phase).values * 3600).tolist() == pytest.approx([0, 4, 8, 72])
    counted = [
        {**row, "tokens/source/a": 10.0 * row["step"], "tokens/source/b": 1.0 * row["step"]}
        for row in rows
    ]
    assert tokens(write(tmp_path, counted)).values.tolist() == [0, 22, 44, 66]


def test_a_row_that_is_not_finite_adds_nothing_to_the_sums(tmp_path):
    seconds = [2.0, None, None, 2.0]  # as the writer stores NaN and infinity
    rows = [{"step": step, "time/step_s": s} for step, s in enumerate(seconds, 1)]
    assert (hours(write(tmp_path, rows)).values * 3600).tolist() == pytest.approx([0, 2, 2, 2, 4])


def test_texts_on_the_way_are_shown_and_escaped(tmp_path):
    phase = write(tmp_path, [{"step": 1, "loss/train": 1.0}])
    samples = [
        {"step": step, "name": "samples/0", "prompt": "a <i>", "text": f"text {step} </pre>"}
        for step in range(1, 41)
    ]
    html = phase_section(phase._replace(samples=samples))
    assert (
        "text 1 </pre>" in Page(html).text
        and "text 40 </pre>" in Page(html).text
        and 1 < html.count("&lt;/pre&gt;") <= 12
    )


def test_sources_have_tokens_shares_and_epochs(tmp_path):
    row = {
        "step": 7,
        "tokens/source/web": 300.0,
        "tokens/source/code": 100.0,
        "epochs/source/web": 1.5,
        "loss/source/code": 2.25,
    }
    html = phase_section(write(tmp_path, [row]))
    assert (
        '<td>web</td><td class="number">300</td><td class="number">1.500</td><td class="number">–</td><td class="number">75.0%</td>'
        in html
    )
    assert (
        '<td>code</td><td class="number">100</td><td class="number">–</td><td class="number">2.250</td><td class="number">25.0%</td>'
        in html
    )


def test_all_last_values_stand_on_the_page(tmp_path):
    row = {"step": 11, "loss/train": 1.2345, "rewards/margins": -0.25, "throughput/mfu": math.pi}
    text = Page(phase_section(write(tmp_path, [row]))).text
    assert all(value in text for value in ("1.234", "-0.25", "3.142"))
