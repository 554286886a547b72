"""The rooms' arrows point down, and no imports go in a circle."""

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
        module: {name for name in named if name in modules} - {module} for module, named in modules.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
