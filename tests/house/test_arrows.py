"""The rooms' arrows point down, and no imports go in a circle."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter

import pytest

from tests.house.repository import ROOMS, imports, module_of, sources

ALLOWED = {
    "model": {"model"},
    "data_pipeline": {"data_pipeline"},
    "inference": {"inference", "model", "data_pipeline"},
    "trainer": {"trainer", "model", "data_pipeline", "inference"},
    "launch": set(ROOMS),
}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_below_it(room):
    wrong = {
        f"{path} imports {module}"
        for path, tree in sources(room).items()
        for module in imports(tree)
        if module.split(".")[0] in (*ROOMS, "tests") and module.split(".")[0] not in ALLOWED[room]
    }
    assert not wrong


def test_imports_are_absolute():
    wrong = [
        f"{path} imports {module}"
        for path, tree in sources(*ROOMS, "tests").items()
        for module in imports(tree)
        if module[0] == "."
    ]
    assert not wrong


def test_no_imports_go_in_a_circle():
    modules = {module_of(path): set(imports(tree)) for path, tree in sources(*ROOMS).items()}
    graph = {
        module: {name for name in named if name in modules} - {module}
        for module, named in modules.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def folders_below(room: str) -> dict[str, set[str]]:
    """Folder of a room → the other folders of it that its files import from. The files at a room's top are
    no folder: some are the ground of all (files.py), others bring everything together (prepare.py).
    """
    modules = {module_of(path): tree for path, tree in sources(room).items()}
    below: dict[str, set[str]] = {}
    for module, tree in modules.items():
        folder = module.rpartition(".")[0]
        imported = {name.rpartition(".")[0] for name in imports(tree) if name in modules}
        if folder != room:
            below.setdefault(folder, set()).update(imported - {folder, room})
    return below


@pytest.mark.parametrize("room", ROOMS)
def test_folders_of_a_room_are_layered(room):
    TopologicalSorter(folders_below(room)).prepare()  # raises CycleError, which names the circle


def modules_looked_up(tree: ast.AST) -> Iterator[str]:
    """The names that a file asks `sys.modules` for, by `get` or in brackets."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            table, names = node.func.value, node.args[:1]
        elif isinstance(node, ast.Subscript):
            table, names = node.value, [node.slice]
        else:
            continue
        if ast.unparse(table) == "sys.modules":
            yield from (name.value for name in names if isinstance(name, ast.Constant))


def test_no_room_is_reached_around_its_imports():
    wrong = [
        f"{path} looks up {name}"
        for path, tree in sources(*ROOMS).items()
        for name in modules_looked_up(tree)
        if name.split(".")[0] in ROOMS
    ]
    assert wrong == []


def test_the_rule_sees_a_look_up():
    code = (
        "import sys\nsys.modules.get('trainer.guard')\nsys.modules['model.api']\nsys.path.get('a')"
    )
    assert list(modules_looked_up(ast.parse(code))) == ["trainer.guard", "model.api"]
