"""Nothing is probed for its members: what is asked of a component is in its Protocol, and a module declares
what it may lack with None.
"""

import ast

from tests.house.repository import ROOMS, sources

# Of modules and systems, whose members are known by name alone, or of other people's objects. A comment at
# each says why.
ALLOWED = {
    "launch/job/load.py": 2,  # the function of a config's module
    "launch/verbs/data.py": 1,  # the function of an action's module
    "launch/bench/checkpoint.py": 1,  # a call that macOS has not
    "trainer/records/goodput.py": 1,  # a clock that macOS has not
    "model/mesh.py": 1,  # jax's devices
    "model/layers/norm.py": 1,  # a parameter that is named by its letter
    "data_pipeline/readers/storage.py": 1,  # fsspec's files
    "data_pipeline/readers/worker.py": 1,  # a handler's function
    "data_pipeline/component.py": 1,  # a package's path
}


def n_probes(tree: ast.Module) -> int:
    """How many calls of getattr and hasattr a file has."""
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return sum(isinstance(f, ast.Name) and f.id in ("getattr", "hasattr") for f in calls)


def test_no_file_has_other_probes_than_those_allowed():
    counts = {path: n_probes(tree) for path, tree in sources(*ROOMS).items()}
    assert {path: n for path, n in counts.items() if n} == ALLOWED


def test_the_rule_sees_a_probe():
    assert n_probes(ast.parse("getattr(phase, 'append', None)\nhasattr(x, 'y')\nx.getattr()")) == 2
