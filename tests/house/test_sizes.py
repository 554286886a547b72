"""Sizes in what a reader takes in: names, operators, numbers and strings. Branches are counted by ruff (C901).

Composition roots (assemble.py, verbs, configs) bring many rooms together, which is their matter: imports are not
counted there.
"""

import ast
import io
import tokenize
import tomllib
from bisect import bisect_left, bisect_right
from functools import cache

import pytest

from tests.house.repository import ROOMS, ROOT, functions, imports, module_of, sources

CODE = (*ROOMS, "tests")
MAX_FILE_TOKENS = {True: 3000, False: 3400}  # of product code; of tests, which list their cases
MAX_FUNCTION_TOKENS = {True: 450, False: 610}
MAX_FOLDERS = 10
COUNTED = (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING)


@cache
def token_lines(text: str) -> list[int]:
    """The line of every token that counts, ascending."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [token.start[0] for token in tokens if token.type in COUNTED]


def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def is_product(path: str) -> bool:
    return path.split("/")[0] in ROOMS


def test_files_are_short():
    sizes = {path: len(token_lines(text_of(path))) for path in sources(*CODE)}
    assert {path: n for path, n in sizes.items() if n > MAX_FILE_TOKENS[is_product(path)]} == {}


def test_lines_are_short():
    """Ruff lets a line pass that has no space in it, as a long expression."""
    lines = {path: text_of(path).splitlines() for path in sources(*ROOMS)}
    assert [path for path, its in lines.items() if max(map(len, its), default=0) > 110] == []


def test_functions_are_short():
    long = {}
    for path, tree in sources(*CODE).items():
        lines = token_lines(text_of(path))
        for node in functions(tree):
            n = bisect_right(lines, node.end_lineno) - bisect_left(lines, node.lineno)
            if n > MAX_FUNCTION_TOKENS[is_product(path)]:
                long[f"{path}:{node.name}"] = n
    assert long == {}


def is_root(path: str) -> bool:
    return path.startswith(("launch/configs/", "launch/verbs/")) or path.endswith("/assemble.py")


@cache
def modules() -> frozenset[str]:
    """Every module of our rooms."""
    return frozenset(module_of(path) for path in sources(*ROOMS))


def folders_of(path: str, tree: ast.Module) -> set[str]:
    """The folders of our rooms that a file imports from, its own apart."""
    own = path.rpartition("/")[0].replace("/", ".")
    named = set(imports(tree)) & modules()
    return {name.rpartition(".")[0] for name in named} - {own}


def test_files_import_from_few_folders():
    counts = {
        path: folders_of(path, tree) for path, tree in sources(*ROOMS).items() if not is_root(path)
    }
    assert {path: found for path, found in counts.items() if len(found) > MAX_FOLDERS} == {}


def test_ruff_counts_branches_and_exempts_parsing_alone():
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert lint["mccabe"]["max-complexity"] <= 10
    exempt = {path for path, rules in lint["per-file-ignores"].items() if "C901" in rules}
    assert all(
        path.startswith(("data_pipeline/readers/", "data_pipeline/clean/")) for path in exempt
    )
    assert {"E", "F", "I", "N", "B", "UP", "D417", "C901"} <= set(lint["select"])
    silenced = [path for path in sources(*CODE) if "noqa: " + "C901" in text_of(path)]
    assert silenced == []


@pytest.mark.parametrize(("text", "n"), [("a = 1  # why\n", 3), ('"""One."""\n\nx()\n', 4)])
def test_comments_and_blank_lines_do_not_count(text, n):
    assert len(token_lines(text)) == n
