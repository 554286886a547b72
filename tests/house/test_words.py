"""What must not stand in the repository: hosts of registries, paths of one machine, unfinished or silenced
code, mocks.
"""

import ast
import re
from functools import cache
from pathlib import Path

from tests.house.repository import ROOMS, ROOT, files, imports, sources

# written in parts, so that this file does not hold what it forbids
HOSTS = (
    "py" + "pi.org",
    "python" + "hosted.org",
    "registry." + "npm",
    "deb." + "debian.org",
    "google" + "apis.com/pip",
)
ROOTS = ("wo" + "rk", "ho" + "me", "ro" + "ot", "Us" + "ers", "fa" + "rm")
BANNED = re.compile(
    "|".join(
        [
            *map(re.escape, HOSTS),
            *(rf"(?<![\w.\]/]){re.escape('/' + root + '/')}\w" for root in ROOTS),
        ]
    )
)
WORDS = ("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")
UNFINISHED = re.compile(
    rf"\b({'|'.join(WORDS)})\b|mark\.(skip|{'x' + 'fail'})|pytest\.({'sk' + 'ip'}|importorskip)\("
)


@cache
def texts() -> tuple[tuple[Path, str], ...]:
    """(path, text) of every text file."""
    data = ((path.relative_to(ROOT), path.read_bytes()) for path in files())
    return tuple(
        (path, text.decode("utf-8", errors="replace")) for path, text in data if b"\0" not in text
    )


def lines_with(pattern: re.Pattern, suffix: str = "") -> list[str]:
    """`path:number: line` of every line that the pattern matches; a file's text is searched before its lines."""
    found = []
    for path, text in texts():
        if path.name.endswith(suffix) and pattern.search(text):
            numbered = enumerate(text.splitlines(), 1)
            found += [
                f"{path}:{n}: {line.strip()[:100]}" for n, line in numbered if pattern.search(line)
            ]
    return found


def test_no_host_of_a_registry_and_no_path_of_one_machine():
    assert lines_with(BANNED) == []


def test_nothing_is_left_unfinished_or_skipped():
    assert lines_with(UNFINISHED, ".py") == []


def is_stub(node: ast.AST) -> bool:
    """`raise NotImplementedError`, with a sentence or without."""
    raised = node.exc if isinstance(node, ast.Raise) else None
    return raised is not None and "NotImplemented" in ast.dump(raised)


def swallows_everything(node: ast.AST) -> bool:
    """Whether a handler takes any error and does nothing; one that names what it expects may do so."""
    if not isinstance(node, ast.ExceptHandler):
        return False
    is_broad = node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException")
    return is_broad and all(isinstance(line, ast.Pass | ast.Continue) for line in node.body)


def test_no_function_is_a_stub_and_no_error_is_swallowed():
    assert [
        f"{path}:{node.lineno}"
        for path, tree in sources(*ROOMS, "tests").items()
        for node in ast.walk(tree)
        if is_stub(node) or swallows_everything(node)
    ] == []


def test_our_own_code_is_never_mocked():
    assert [
        path
        for path, tree in sources(*ROOMS, "tests").items()
        if {"mock", "unittest.mock", "pytest_mock"} & set(imports(tree))
    ] == []


def test_the_rules_see_what_they_forbid():
    assert BANNED.search("see " + "/" + ROOTS[0] + "/x") and BANNED.search(
        "https://" + HOSTS[0] + "/simple"
    )
    assert not BANNED.search("data/" + ROOTS[0] + "/x") and UNFINISHED.search(
        "# " + "TO" + "DO later"
    )
