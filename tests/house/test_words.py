"""What must not stand in the repository: hosts of registries, paths of one machine, unfinished or silenced
code, mocks.
"""

import ast
import re

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
    "|".join([*map(re.escape, HOSTS), *(rf"(?<![\w.\]/]){re.escape('/' + root + '/')}\w" for root in ROOTS)])
)
WORDS = ("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")
UNFINISHED = re.compile(
    rf"\b({'|'.join(WORDS)})\b|mark\.(skip|{'x' + 'fail'})|pytest\.({'sk' + 'ip'}|importorskip)\("
)


def lines():
    """(where, line) of every text file."""
    for path in files():
        data = path.read_bytes()
        if b"\0" not in data:
            for number, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), 1):
                yield f"{path.relative_to(ROOT)}:{number}", line


def test_no_host_of_a_registry_and_no_path_of_one_machine():
    assert [f"{where}: {line.strip()[:100]}" for where, line in lines() if BANNED.search(line)] == []


def test_nothing_is_left_unfinished_or_skipped():
    assert [
        f"{where}: {line.strip()[:100]}"
        for where, line in lines()
        if ".py:" in where and UNFINISHED.search(line)
    ] == []


def test_no_function_is_a_stub_and_no_error_is_swallowed():
    wrong = []
    for path, tree in sources(*ROOMS, "tests").items():
        for node in ast.walk(tree):
            stub = (
                isinstance(node, ast.Raise)
                and node.exc is not None
                and "NotImplemented" in ast.dump(node.exc)
            )
            broad = isinstance(node, ast.ExceptHandler) and getattr(node.type, "id", "Exception") in (
                "Exception",
                "BaseException",
            )
            if stub or (broad and all(isinstance(line, ast.Pass | ast.Continue) for line in node.body)):
                wrong.append(f"{path}:{node.lineno}")
    assert wrong == []


def test_our_own_code_is_never_mocked():
    assert [
        path
        for path, tree in sources(*ROOMS, "tests").items()
        if {"mock", "unittest.mock", "pytest_mock"} & set(imports(tree))
    ] == []


def test_the_rules_see_what_they_forbid():
    assert BANNED.search("see " + "/" + ROOTS[0] + "/x") and BANNED.search("https://" + HOSTS[0] + "/simple")
    assert not BANNED.search("data/" + ROOTS[0] + "/x") and UNFINISHED.search("# " + "TO" + "DO later")
