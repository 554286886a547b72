"""What a person sees: bars on a terminal, a line now and then elsewhere, nothing from a quiet console."""

import os
import pty
import subprocess
import sys

import pytest

from launch.terminal import console as console_module
from launch.terminal.console import Console, duration, even
from launch.terminal.summary import print_summary
from tests.launch.command import environment

RESULTS = {
    "data": {
        "kept": {"web": {"documents": 1200, "bytes": 9}},
        "dropped": {"web": {"too short": 3, "no reason": 0}},
    },
    "pretrain": {
        "before": {"loss": 8.3},
        "after": {"loss": 3.25, "new": 0.5},
        "samples": [{"prompt": "def", "text": " f(x):\n  [bold]return[/bold]"}],
        "summary": {"steps": 600, "seconds": 100.4, "tokens_per_s": 12345.6, "mfu": 0.271},
    },
    "sft": None,
}


def test_the_tables_hold_every_number_and_markup_is_text(capsys):
    print_summary(Console(), RESULTS)
    out = capsys.readouterr().out
    for text in (
        "1,200",
        "too short",
        "8.3",
        "3.25",
        "-5.05",
        "0.5",
        "12,346",
        "27.1%",
        "def → f(x): [bold]return[/bold]",
    ):
        assert text in out
    assert "no reason" not in out


def test_without_a_terminal_long_work_prints_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(console_module, "LINE_EVERY_S", 0.0)
    with Console().progress("train", 4, unit="steps", done=1) as advance:
        advance(0, "compiling the step")
        advance()
        advance(2, "loss 3.1")
    compiling, first, last = capsys.readouterr().out.splitlines()
    assert compiling == "train: compiling the step"
    assert first == "train: 2/4 steps", "the first step holds the compilation: no estimate from it"
    assert last.startswith("train: 4/4 steps, ") and last.endswith(" left, loss 3.1")


def test_the_last_loss_stays_when_the_work_is_done(capsys):
    with Console().progress("train", 2, unit="steps") as advance:
        advance(1, "loss 3.1")
        advance(1, "loss 2.9")
    assert capsys.readouterr().out == "train: loss 2.9\n"


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((8.14, 3.2656, -4.8744), ["8.140", "3.266", "-4.874"]),
        ((None, 0.3634), ["", "0.3634"]),
        ((1234.5, 2.0), ["1,234", "2"]),
        ((0.0, 0.0), ["0", "0"]),
    ],
)
def test_numbers_beside_each_other_have_equal_decimals(values, texts):
    assert even(*values) == texts


def test_short_work_prints_nothing_and_a_quiet_console_never(capsys, monkeypatch):
    with Console().progress("train", 4) as advance:
        advance()
    monkeypatch.setattr(console_module, "LINE_EVERY_S", 0.0)
    quiet = Console(quiet=True)
    with quiet.progress("train") as advance:
        advance()
    quiet.say("hello")
    quiet.table("title", ("a",), [("b",)])
    assert capsys.readouterr().out == ""


def test_lines_are_printed_as_they_are(capsys):
    Console().say("[1/4] data: " + "x" * 300)
    assert capsys.readouterr().out == "[1/4] data: " + "x" * 300 + "\n"


BAR = """
import time
from launch.terminal.console import Console
console = Console()
with console.progress("outer", 2, unit="files") as outer:
    with console.progress("inner", 3) as inner:
        for _ in range(3):
            inner(1, "loss 1.5")
            time.sleep(0.2)
    outer()
    console.say("a line above")
"""


def test_on_a_terminal_bars_show_what_is_left():
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", BAR],
        env=environment(TERM="xterm", COLUMNS="140"),
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        shown += part
    assert child.wait() == 0
    for text in (b"outer", b"inner", b"0/2 files", b"loss 1.5", b"eta", b"a line above"):
        assert text in shown


def test_a_number_stays_on_its_line_on_a_narrow_terminal(capsys):
    console = Console()
    console._rich.width = 40
    rows = [("data/held_out/books", "1,234,567", "2,930,853", "12,345,678")]
    console.table("Amounts", ("shards", "documents", "tokens", "bytes"), rows)
    lines = capsys.readouterr().out.splitlines()
    (numbers,) = [line for line in lines if "1,234,567" in line]
    assert numbers.split()[1:] == ["1,234,567", "2,930,853", "12,345,678"]
    # The text is folded, since numbers are not.
    assert numbers.split()[0] == "data/held_ou" and any("t/books" in line for line in lines)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (61, "1 min 01 s"), (3 * 3600 + 120, "3 h 02 min"), (-1, "0 s")],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text
