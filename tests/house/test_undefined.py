"""No name is used that nothing defines.

Ruff's F821 finds them, but reads the shape in `Float[Array, "B"]` as the name of a type. The project's
configuration therefore leaves it out, and here it runs without what is a letter in a string.
"""

import ast
import json
import re
import subprocess
import sys

import pytest

from model.sharding import ALPHABET
from tests.house.repository import ROOMS, ROOT

RUFF = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "F821"]


def undefined(*arguments: str, text: str | None = None) -> list[str]:
    """`file:line: name` of every name that ruff finds undefined, shapes left out."""
    done = subprocess.run(
        [*RUFF, "--output-format", "json", *arguments],
        cwd=ROOT,
        input=text,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stderr
    problems = []
    for problem in json.loads(done.stdout):
        path, line = problem["filename"], problem["location"]["row"]
        name = re.search("`(.+)`", problem["message"])[1]
        source = (ROOT / path).read_text(encoding="utf-8") if text is None else text
        if not (is_shape(name) and name in words_in_strings(source, line)):
            problems.append(f"{path}:{line}: {name}")
    return problems


def is_shape(name: str) -> bool:
    """A letter of the alphabet, alone or numbered, or the dimension `_` of which nothing is said."""
    return name == "_" or (name[0] in ALPHABET and (name[1:] or "0").isdigit())


def words_in_strings(source: str, line: int) -> set[str]:
    """Strings of one word that stand in a line."""
    strings = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return {node.value for node in strings if node.lineno == line}


def test_every_name_is_defined():
    assert undefined(*ROOMS, "tests") == []


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("nothing(1)", "nothing"),
        ("x = B + 1", "B"),
        ("def f(x: 'Nowhere') -> None: ...", "Nowhere"),
        ("def f() -> int:\n    return late", "late"),
    ],
)
def test_a_name_that_nothing_defines_is_found(line, name):
    text = f"x: Float[Array, 'B']\n{line}\n"
    found = undefined("--stdin-filename", "example.py", "-", text="Float = Array = dict\n" + text)
    assert [problem.rpartition(" ")[2] for problem in found] == [name]
