"""A data phase that is stopped while its workers work: the exit codes of the README, no process left, and
the same command goes on.
"""

import os
import signal
from pathlib import Path

import pytest

from tests.launch.command import begin, until


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


@pytest.mark.parametrize(
    ("sent", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_stopped_data_phase_leaves_its_code_and_no_process(tmp_path, sent, code):
    ingested = tmp_path / "run" / "data" / "stages" / "ingest" / "web"
    process = begin("run", "tiny", "--dir", "run", "--set", "data.engine.workers=2", cwd=tmp_path)
    until(
        lambda: ingested.exists() and len(os.listdir(ingested)) > 1 or process.poll() is not None,
        "the first parts are read",
    )
    assert process.poll() is None and len(processes_of(process.pid)) > 2
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    until(lambda: not processes_of(process.pid), "no process is left")
    assert sent == signal.SIGKILL or "continues" in said
