"""Metrics: nothing flushed is lost, and a resumed phase shows each step once."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator as PluginAccumulator,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util import tensor_util

from trainer.events import json_lines
from trainer.records.metrics import METRICS_FILE, SAMPLES_FILE, MetricsWriter, read_metrics
from trainer.records.tensorboard import EventFile, tag_of

ROOT = Path(__file__).parents[2]


def in_tensorboard(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in in_tensorboard(folder).Scalars(tag_of(tag))]


def in_jsonl(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(row["step"], row[tag]) for row in read_metrics(folder) if tag in row]


def write_losses(folder: Path, *, start_step: int, steps: range, offset: float) -> None:
    writer = MetricsWriter(folder, start_step)
    for step in steps:
        writer.write(step, {"loss/train": step + offset})
    writer.close()


def test_both_files_hold_every_row(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    for step in range(7):
        writer.write(step, {"loss/train": 0.5 * step, "time/step_s": 2.0})
    writer.write(6, {"eval/web/bits_per_byte": 1.25})
    writer.close()
    expected = [(step, 0.5 * step) for step in range(7)]
    assert scalars(tmp_path, "loss/train") == in_jsonl(tmp_path, "loss/train") == expected
    assert (
        scalars(tmp_path, "eval/web/bits_per_byte")
        == in_jsonl(tmp_path, "eval/web/bits_per_byte")
        == [(6, 1.25)]
    )
    assert all(row["time"] > 1e9 for row in read_metrics(tmp_path))


def test_a_crash_after_a_flush_loses_nothing(tmp_path):
    program = """if True:
        import os, pathlib, sys
        from trainer.records.metrics import MetricsWriter
        writer = MetricsWriter(pathlib.Path(sys.argv[1]), 0)
        for step in range(500):
            writer.write(step, {"loss/train": float(step)})
        writer.flush()
        os._exit(1)"""
    crashed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=False)
    assert crashed.returncode == 1
    expected = [(step, float(step)) for step in range(500)]
    assert scalars(tmp_path, "loss/train") == in_jsonl(tmp_path, "loss/train") == expected


def test_a_full_disk_is_said_and_rows_come_again_when_there_is_room(tmp_path):
    program = """if True:
        import pathlib, resource, sys
        from trainer.records.metrics import MetricsWriter
        writer = MetricsWriter(pathlib.Path(sys.argv[1]), 0)
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        for limit, steps in ((20_000, range(1000)), (most, range(1000, 1010))):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
            writer.flush()
            for step in steps:
                writer.write(step, {"loss/train": float(step)})
            writer.flush()
        writer.close()"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stderr.count("File too large); training goes on") == 2
    for steps in (
        [step for step, _ in found]
        for found in (in_jsonl(tmp_path, "loss/train"), scalars(tmp_path, "loss/train"))
    ):
        assert steps == sorted(steps) and 100 < len(steps) < 1000
        assert steps[-9:] == list(range(1001, 1010))


def test_a_resumed_phase_shows_each_step_once_with_its_new_value(tmp_path):
    write_losses(tmp_path, start_step=0, steps=range(1, 10), offset=0.0)
    write_losses(tmp_path, start_step=6, steps=range(7, 12), offset=0.5)
    expected = [(step, float(step)) for step in range(1, 7)] + [
        (step, step + 0.5) for step in range(7, 12)
    ]
    assert scalars(tmp_path, "loss/train") == in_jsonl(tmp_path, "loss/train") == expected


def test_a_phase_begun_again_from_zero_hides_the_first_attempt_with_its_step_zero(tmp_path):
    write_losses(tmp_path, start_step=0, steps=range(0, 5), offset=0.0)
    write_losses(tmp_path, start_step=0, steps=range(0, 3), offset=0.5)
    expected = [(step, step + 0.5) for step in range(3)]
    assert scalars(tmp_path, "loss/train") == in_jsonl(tmp_path, "loss/train") == expected


def test_event_files_begun_at_once_have_names_of_different_seconds(tmp_path):
    for _ in range(2):
        EventFile(tmp_path, 0).close()
    assert len({path.name.split(".")[3] for path in tmp_path.iterdir()}) == 2


def test_a_torn_last_line_is_dropped_and_what_follows_stands_on_its_own_line(tmp_path):
    write_losses(tmp_path, start_step=0, steps=range(1, 4), offset=0.0)
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 4, "loss/tr')
    assert in_jsonl(tmp_path, "loss/train") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    write_losses(tmp_path, start_step=3, steps=range(4, 5), offset=0.0)
    assert in_jsonl(tmp_path, "loss/train") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert not list(tmp_path.glob("*.partial*"))


def test_a_loss_that_is_not_finite_is_valid_json_and_nan_to_readers(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    writer.write(1, {"loss/train": math.nan, "optimizer/grad_norm": math.inf})
    writer.close()
    row = json.loads((tmp_path / METRICS_FILE).read_text(), parse_constant=pytest.fail)
    assert row["loss/train"] is None
    assert math.isnan(read_metrics(tmp_path)[0]["loss/train"])
    assert math.isnan(scalars(tmp_path, "loss/train")[0][1])


def test_a_text_is_shown_character_for_character(tmp_path):
    text = "# not a heading\n<b>größe</b>"
    writer = MetricsWriter(tmp_path, 0)
    writer.text(3, "samples/0", text)
    writer.close()
    (event,) = in_tensorboard(tmp_path).Tensors("samples/0")
    shown = event.tensor_proto.string_val[0].decode()
    assert event.step == 3
    assert "\n".join(line.removeprefix("    ") for line in shown.split("\n")) == text
    (path,) = tmp_path.glob("events.out.tfevents.*")
    plugins = [
        value.metadata.plugin_data.plugin_name
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]
    assert plugins == ["text"]


def test_tensorboard_opens_on_the_loss_and_has_the_configuration(tmp_path):
    names = ("checkpoint/save_s", "eval/web/loss", "loss/train", "rewards/margins", "time/step_s")
    tags = sorted(tag_of(name) for name in names)
    assert [tag.split()[1].split("/")[0] for tag in tags] == [
        "loss",
        "eval",
        "rewards",
        "time",
        "checkpoint",
    ]
    writer = MetricsWriter(tmp_path, 0)
    writer.configuration({"steps": 7, "optimizer": {"peak_lr": 0.5, "rule": {"type": "Muon"}}})
    writer.text(1, "samples/0", "text", prompt="prompt")
    writer.close()
    shown = in_tensorboard(tmp_path)
    (text,) = shown.Tensors("configuration")
    assert b'"peak_lr": 0.5' in text.tensor_proto.string_val[0]
    (path,) = tmp_path.glob("events.out.tfevents.*")
    values = [value for event in EventFileLoader(str(path)).Load() for value in event.summary.value]
    (start,) = [value for value in values if value.metadata.plugin_data.plugin_name == "hparams"]
    settings = HParamsPluginData.FromString(start.metadata.plugin_data.content)
    fields = settings.session_start_info.hparams
    assert fields["optimizer.peak_lr"].number_value == 0.5 and fields["steps"].number_value == 7
    assert fields["optimizer.rule.type"].string_value == "Muon"
    (row,) = json_lines(tmp_path / SAMPLES_FILE)
    assert (row["prompt"], row["text"]) == ("prompt", "text")


def shown_histograms(folder: Path, name: str) -> list[tuple[int, list[list[float]]]]:
    """Step, and [left edge, right edge, count] of every bin, as the page reads them."""
    read = PluginAccumulator(
        str(folder), size_guidance={"tensors": 0}, tensor_size_guidance={"histograms": 0}
    ).Reload()
    return [
        (event.step, tensor_util.make_ndarray(event.tensor_proto).tolist())
        for event in read.Tensors(name)
    ]


def test_a_histogram_is_shown_from_its_first_filled_bin_to_its_last_and_one_of_nothing_is_not(
    tmp_path,
):
    writer = MetricsWriter(tmp_path, 0)
    writer.histogram(
        4,
        "histograms/gradient/embed",
        np.array([-8.0, -2.0, -1.0, 1.0, 2.0, 8.0]),
        np.array([0.0, 3.0, 0.0, 5.0, 0.0]),
    )
    writer.histogram(8, "histograms/gradient/embed", np.array([-1.0, 0.0, 1.0]), np.zeros(2))
    writer.close()
    assert shown_histograms(tmp_path, "histograms/gradient/embed") == [
        (4, [[-2, -1, 3], [-1, 1, 0], [1, 2, 5]])
    ]
    assert read_metrics(tmp_path) == []


def test_what_is_taken_back_while_a_run_goes_on_is_shown_once_with_its_new_value(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    for offset, steps in ((0.0, range(0, 10)), (0.5, range(7, 12))):
        for step in steps:
            writer.write(step, {"loss/train": step + offset})
        if offset == 0:
            writer.back_to(6)
    writer.close()
    expected = [(step, float(step)) for step in range(7)] + [
        (step, step + 0.5) for step in range(7, 12)
    ]
    assert scalars(tmp_path, "loss/train") == in_jsonl(tmp_path, "loss/train") == expected


def test_a_process_that_is_not_active_writes_nothing(tmp_path):
    writer = MetricsWriter(tmp_path / "phase", 0, active=False)
    writer.write(1, {"loss/train": 1.0})
    writer.text(1, "samples/0", "text")
    writer.histogram(1, "histograms/gradient/embed", np.array([0.0, 1.0]), np.ones(1))
    writer.back_to(0)
    writer.flush()
    writer.close()
    assert os.listdir(tmp_path) == []


def test_reading_a_phase_that_has_not_begun_gives_no_rows(tmp_path):
    assert read_metrics(tmp_path) == []
