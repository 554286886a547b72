"""The files of the repository, parsed once for all rules."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("model", "data_pipeline", "inference", "trainer", "launch")


@cache
def files() -> tuple[Path, ...]:
    """Every file that is, or would be, in the repository."""
    told = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(ROOT / line for line in told.stdout.splitlines() if (ROOT / line).is_file())


@cache
def sources(*folders: str) -> dict[str, ast.Module]:
    """Path from the root → syntax tree, of the Python files in `folders`."""
    found = [path.relative_to(ROOT) for path in files() if path.suffix == ".py"]
    return {
        str(path): ast.parse((ROOT / path).read_text(encoding="utf-8"))
        for path in found
        if path.parts[0] in folders
    }


def module_of(path: str) -> str:
    """`model/api.py` → `model.api`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def imports(tree: ast.AST) -> tuple[str, ...]:
    """Every module that a file imports, also inside functions; `from a import b` gives `a` and `a.b`, for b
    may be a module.
    """
    return tuple(_imports(tree))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"{'.' * node.level}{node.module or ''}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a file."""
    return (
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
