"""A data phase that is stopped while its workers work: the exit codes of the README, no process left, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def processes_of(session: int) -> set[int]:
    """The processes of a session, which all that a command starts belong to."""
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                fields = (process / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.add(int(process.name))
    return found


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_stopped_data_phase_leaves_its_code_and_no_process(tmp_path, sent, code):
    ingested = tmp_path / "run" / "data" / "stages" / "ingest" / "web"
    settings = ["--set", "data.engine.workers=2", "--dir", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "launch", "run", "tiny", *settings],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not ingested.exists() or len(os.listdir(ingested)) < 2:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    assert len(processes_of(process.pid)) > 2
    process.send_signal(sent)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code, said
    deadline = time.monotonic() + 20
    while (left := processes_of(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
    assert sent == signal.SIGKILL or "continues" in said
