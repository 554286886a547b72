"""The report of a run, whole or half done."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from launch.reporting.page import table
from launch.reporting.write import write_report
from trainer.records.metrics import MetricsWriter

JOB = """data:
  type: Prepare
  sources: {web: 3.0, code: 2.0}
pretrain:
  type: Run
  steps: 600
sft:
  type: Run
  steps: 200
dpo:
  type: Run
  steps: 60
"""
DATA = {
    "read": {"web": 900, "code": 1800, "books": 64},
    "held_out": {"web": {"documents": 43, "bytes": 212_345, "tokens": 65_321}},
    "kept": {
        "web": {"documents": 812, "bytes": 4_912_345, "tokens": 1_512_345},
        "code": {"documents": 1543, "bytes": 12_912_345, "tokens": 4_112_345},
        "books": {"documents": 61, "bytes": 512_345, "tokens": 131_072},
    },
    "dropped": {
        "web": {"too_short": 31, "exact_duplicate": 12, "language": 2},
        "code": {"too_short": 154, "generated": 17},
        "books": {},
    },
    "examples": {
        "too_short": ["x = 1", "<script>alert('dropped')</script>"],
        "language": ["Größe & Maß der Dinge"],
    },
}
SUMMARY = {"steps": 600, "seconds": 215.4, "tokens_per_s": 11_321.0, "mfu": 0.237}


def write_phase(
    folder: Path, *, steps: int, sets: tuple[str, ...], finished: bool, best: float = 3.0
) -> None:
    """Metrics, results and done.json as a trained phase leaves them."""
    writer = MetricsWriter(folder, 0)
    for step in range(1, steps + 1):
        loss = best + 5 * math.exp(-step / 80) + 0.15 * math.sin(step * 1.7)
        writer.write(
            step,
            {
                "loss/train": loss if step != 7 else math.nan,
                "optimizer/learning_rate": 3e-4 * min(step / 40, 1.0) * (1 - 0.9 * step / steps),
                "optimizer/grad_norm": 1.0 + math.exp(-step / 30),
                "throughput/tokens_per_s": 11_000 + 400 * math.sin(step),
                "throughput/mfu": 0.23,
                "time/step_s": 0.35,
                "time/data_wait_s": 0.001,
            },
        )
        if step % 100 == 0:
            row = {f"eval/{name}/loss": loss + i / 3 for i, name in enumerate(sets)}
            writer.write(
                step,
                row
                | {
                    f"eval/{name}/bits_per_byte": (loss + i / 3) / 2.5
                    for i, name in enumerate(sets)
                },
            )
    writer.close()
    if finished:
        numbers = {
            "loss": (8.31, 3.02),
            "bits_per_byte": (3.4, 1.27),
            "compression_ratio": (2.35, 6.3),
            "accuracy": (0.71, 0.64),
        }
        before, after = (
            {f"eval/{name}/{metric}": pair[i] for name in sets for metric, pair in numbers.items()}
            for i in (0, 1)
        )
        samples = [
            {
                "prompt": "def parse(",
                "text": 'text):\n    """Return <b>the</b> tree & its leaves."""\n    return tree',
            }
        ]
        results = {
            "before": before,
            "after": after,
            "samples": samples,
            "summary": {**SUMMARY, "steps": steps},
        }
        (folder / "results.json").write_text(json.dumps(results))
        (folder / "done.json").write_text("{}")


def write_run(folder: Path) -> Path:
    """A finished run of three trained phases."""
    (folder / "data").mkdir(parents=True)
    (folder / "job.yaml").write_text(JOB)
    (folder / "launches.jsonl").write_text(
        json.dumps(
            {
                "time": 1.0,
                "argv": ["run", "tiny", "--set", "a.b=<c>"],
                "python": "3.12.1",
                "jax": "0.12",
            }
        )
        + "\n"
    )
    (folder / "data" / "results.json").write_text(json.dumps(DATA))
    (folder / "data" / "done.json").write_text("{}")
    write_phase(folder / "pretrain", steps=600, sets=("web", "code", "books"), finished=True)
    write_phase(folder / "sft", steps=200, sets=("chat",), finished=True, best=1.8)
    write_phase(folder / "dpo", steps=60, sets=("pairs",), finished=True, best=0.5)
    return folder


class Page(HTMLParser):
    """Checks that tags close in order; collects the visible text and all addresses."""

    VOID = ("meta", "br", "hr", "link", "img", "input")

    def __init__(self, html: str):
        super().__init__()
        self.open_tags, self.text, self.addresses, self.ids = [], "", [], []
        # Where a long name may be broken on a narrow screen.
        self.feed(html.replace("<wbr>", ""))
        assert self.open_tags == []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open_tags.append(tag)
        self._note(attrs)

    def handle_startendtag(self, tag, attrs):
        self._note(attrs)

    def _note(self, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> str:
    return (
        write_report(write_run(tmp_path_factory.mktemp("runs") / "tiny"))
        .read_text()
        .replace("<wbr>", "")
    )


def test_the_page_shows_what_went_in_and_what_came_out(finished):
    text = Page(finished).text
    for expected in (
        "tiny",
        "1,512,345",
        "exact_duplicate",
        "eval: bits_per_byte",
        "loss/train",
        "8.31",
        "3.02",
        "-5.29",
        "23.7%",
        "11,321",
    ):
        assert expected in text
    assert "sources: {web: 3.0, code: 2.0}" in text
    assert "meshwright run tiny --set 'a.b=<c>'" in text


def test_text_of_a_corpus_or_a_model_is_shown_and_never_run(finished):
    assert "<script" not in finished
    assert "<b>the</b>" not in finished
    assert "<script>alert('dropped')</script>" in Page(finished).text
    assert "Return <b>the</b> tree & its leaves." in Page(finished).text


def test_the_page_needs_nothing_outside_itself(finished):
    page = Page(finished)
    assert all(address.startswith("#") for address in page.addresses)
    assert not re.search(r"@import|url\((?!#)", finished)
    assert len(page.ids) == len(set(page.ids))


def test_a_long_name_breaks_behind_its_slashes_and_underscores():
    cell = table(("metric",), [("a<b>/bits_per",)])
    assert "a&lt;b&gt;/<wbr>bits_<wbr>per</td>" in cell


def test_a_change_is_coloured_by_whether_it_is_better(finished):
    def mark(metric: str) -> str:
        return re.search(
            rf"<td>{metric}</td>.*?<td class=\"number ?(\w*)\">[^<]*</td></tr>", finished
        )[1]

    assert [mark(f"web/{name}") for name in ("loss", "compression_ratio", "accuracy")] == [
        "good",
        "good",
        "bad",
    ]


def test_charts_take_the_colours_of_the_page(finished):
    charts = re.findall(r"<figure>.*?</figure>", finished, re.DOTALL)
    assert (
        len(charts) == 3 * 6 + 2 * 2
    )  # of each phase: loss, rate, gradient, tokens/s, MFU, time; of two what was held out
    assert all("var(--line-1)" in svg or "var(--ink)" in svg for svg in charts) and not re.search(
        r"#[0-9a-f]{6}", "".join(charts)
    )
    assert (
        sum("var(--line-3)" in svg for svg in charts) == 2
    )  # loss and bits per byte of three sources
    assert len(finished) < 1_000_000


def test_the_first_screen_answers_how_healthy_far_good_and_fast(finished):
    tiles = [Page(tile).text for tile in re.findall(r'<div class="tile .*?</div>', finished)]
    assert [tile.split(" ")[0] for tile in tiles] == [
        "HealthRecovered3\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}loss",
        *["How"] * 5,
    ]
    assert "4 of 4 phases done" in tiles[1]
    # of the phase that took longest, and equal to its row in the table of phases
    assert "11,321tokens/s in pretrain; " in tiles[2] and "MFU 23.7%" in tiles[2]
    for tile, phase in zip(tiles[3:], ("pretrain", "sft", "dpo"), strict=True):
        assert tile.startswith(f"How good: {phase}1.270") and "3.400 before, -2.130" in tile


def test_a_preference_phase_is_judged_by_its_preferences_and_one_phase_is_one(tmp_path):
    write_phase(tmp_path / "dpo", steps=3, sets=("pairs",), finished=True)
    results = {
        "before": {"chat/bits_per_byte": 1.678, "pairs/rewards/accuracies": 0.0},
        "after": {"chat/bits_per_byte": 1.729, "pairs/rewards/accuracies": 0.7262},
    }
    (tmp_path / "dpo" / "results.json").write_text(json.dumps(results))
    text = Page(write_report(tmp_path).read_text()).text
    assert "How good: dpo0.7262pairs/rewards/accuracies, held out; 0.0000 before" in text
    assert "1 of 1 phase done" in text


def test_a_prompt_and_what_follows_stand_apart(finished):
    assert '<pre class="prompt">def parse(</pre><pre>text):' in finished


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no run")
    with pytest.raises(ValueError, match="is no folder of a run .* give one such as runs/tiny"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_half_done_run_has_a_page_too(tmp_path):
    run_dir = tmp_path / "tiny"
    run_dir.mkdir()
    assert "tiny" in Page(write_report(run_dir).read_text()).text
    (run_dir / "job.yaml").write_text(JOB)
    (run_dir / "data").mkdir()
    write_phase(run_dir / "pretrain", steps=37, sets=("web",), finished=False)
    with (run_dir / "pretrain" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 38, "lo')
    (run_dir / "data" / "results.json").write_text('{"kept": {"web"')
    (run_dir / "pretrain" / "events.jsonl").write_text('{"time": 1e9, "step": 12, "event": "sp')
    text = Page(write_report(run_dir).read_text()).text
    assert "data · begun" in text
    assert "pretrain · at step 37" in text
    assert "sft · not begun" in text
    assert "6%" in text and "step 37 of 600 of pretrain" in text
    assert "data/results.json cannot be read and is left out" in text
    (run_dir / "job.yaml").write_text("pretrain: {steps: [")
    assert "pretrain · at step 37" in Page(write_report(run_dir).read_text()).text


def test_phases_of_a_folder_without_a_config_are_found(tmp_path):
    write_phase(tmp_path / "alone", steps=3, sets=("web",), finished=True)
    assert "alone · done" in Page(write_report(tmp_path).read_text()).text


def test_a_run_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent is no folder; give the folder of a run"):
        write_report(tmp_path / "absent")
