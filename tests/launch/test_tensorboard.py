"""The verb `tensorboard` serves a run's curves on this machine alone, or says why it cannot."""

import json
import urllib.request

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from launch.__main__ import main
from launch.verbs.tensorboard import serve


@pytest.fixture
def run_dir(tmp_path):
    """A run with one scalar in two phases."""
    for phase in ("pretrain", "sft"):
        writer = EventFileWriter(str(tmp_path / phase))
        writer.add_event(
            Event(
                step=1,
                wall_time=1.0,
                summary=Summary(value=[Summary.Value(tag="loss/train", simple_value=2.5)]),
            )
        )
        writer.close()
    return tmp_path


def test_the_curves_of_every_phase_are_served_on_loopback(run_dir):
    server, url = serve(run_dir, host="127.0.0.1", port=0)
    assert "127.0.0.1" in url
    with urllib.request.urlopen(f"{url}data/runs", timeout=30) as answer:
        assert set(json.load(answer)) <= {"pretrain", "sft"}


@pytest.mark.parametrize("make", [lambda p: p / "nowhere", lambda p: p], ids=["missing", "empty"])
def test_a_folder_without_curves_is_told(tmp_path, make, capsys):
    assert main(["tensorboard", str(make(tmp_path))]) == 2
    assert "give the folder of a run" in capsys.readouterr().err


def test_a_taken_port_is_told(run_dir, capsys):
    server, url = serve(run_dir, host="127.0.0.1", port=0)
    port = url.rstrip("/").rpartition(":")[2]
    assert main(["tensorboard", str(run_dir), "--port", port]) == 2
    assert "choose another --port" in capsys.readouterr().err
