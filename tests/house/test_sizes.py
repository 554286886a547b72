"""Small files, small functions, few imports; branches are counted by ruff (C901), whose exemptions pyproject.toml gives reasons for.

Imports are counted in the rooms but not in launch configs and tests, whose matter is what they bring together.
"""

import ast
import tomllib

from tests.house.repository import ROOMS, ROOT, functions, sources

CODE = (*ROOMS, "tests")
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_IMPORTS = 400, 60, 15


def test_files_are_short():
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in sources(*CODE)}
    assert {path: n for path, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_functions_are_short():
    long = {
        f"{path}:{node.name}": node.end_lineno - node.lineno + 1
        for path, tree in sources(*CODE).items()
        for node in functions(tree)
        if node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert long == {}


def test_files_import_few_modules():
    counts = {
        path: sum(isinstance(node, ast.Import) and len(node.names) or isinstance(node, ast.ImportFrom) for node in tree.body)
        for path, tree in sources(*ROOMS).items()
        if not path.startswith("launch/configs/")
    }
    assert {path: n for path, n in counts.items() if n > MAX_IMPORTS} == {}


def test_ruff_counts_five_branches_and_exempts_parsing_alone():
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert lint["mccabe"]["max-complexity"] == 6  # ruff counts the way through a function as one
    exempt = {path for path, rules in lint["per-file-ignores"].items() if "C901" in rules}
    assert all(path.startswith(("data_pipeline/readers/", "data_pipeline/clean/")) for path in exempt)
    assert {"E", "F", "I", "N", "B", "UP", "D417", "C901"} <= set(lint["select"])
    silenced = [path for path in sources(*CODE) if "noqa: " + "C901" in (ROOT / path).read_text()]
    assert silenced == []
