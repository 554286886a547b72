"""Jupyter notebooks as one source text in the percent format (`# %%` before a cell, prose as comments);
outputs are dropped.
"""

import json
from typing import Any

# what begins a comment in the kernel's language; `//` in the others that people write notebooks in
HASH_COMMENTS = frozenset(
    ("python", "r", "julia", "ruby", "perl", "bash", "shell", "sage", "octave")
)
NAMES = {
    "ir": "r",
    "bash": "shell",
    "node": "javascript",
    "c++17": "c++",
    "c++14": "c++",
    "c++11": "c++",
    ".net (c#)": "c#",
}


def notebook_text(text: str) -> tuple[str, str]:
    """(language, text) of an .ipynb file of any format version.

    Raises:
        ValueError: It is no notebook.
    """
    try:
        notebook = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(notebook, dict):
        raise ValueError("no notebook")
    language = _language(notebook)
    comment = "# " if language in HASH_COMMENTS else "// "
    cells = [rendered for cell in _cells(notebook) if (rendered := _cell(cell, comment))]
    # JSON can write half a character
    return language, "\n".join(cells).encode(errors="replace").decode()


def _language(notebook: dict) -> str:
    metadata = notebook.get("metadata") if isinstance(notebook.get("metadata"), dict) else {}
    # language_info was written by the kernel that ran the cells, kernelspec by the person's
    # choice of one.
    for place in ("language_info", "kernelspec"):
        said = metadata.get(place) if isinstance(metadata.get(place), dict) else {}
        name = said.get("name" if place == "language_info" else "language")
        if isinstance(name, str) and name:
            return NAMES.get(name.lower(), "python" if "python" in name.lower() else name.lower())
    return "python"  # what notebooks of the time before `metadata.kernelspec` were in


def _cells(notebook: dict) -> list[Any]:
    # Formats up to 3 have the cells in worksheets.
    sheets = notebook.get("worksheets")
    if isinstance(sheets, list):
        return [
            cell
            for sheet in sheets
            if isinstance(sheet, dict)
            for cell in _list(sheet.get("cells"))
        ]
    if not isinstance(notebook.get("cells"), list):
        raise ValueError("no cells")
    return notebook["cells"]


def _cell(cell: Any, comment: str) -> str:
    if not isinstance(cell, dict):
        raise ValueError("a cell that is none")
    kind, source = cell.get("cell_type"), _source(cell)
    if not source.strip():
        return ""
    mark = comment.rstrip()
    if kind == "code":
        # The percent format of Jupytext, Spyder and VS Code: a notebook stays a program that
        # runs.
        return f"{mark} %%\n{source.rstrip()}\n"
    lines = "\n".join(f"{comment}{line}".rstrip() for line in source.strip("\n").split("\n"))
    return f"{mark} %% [{'raw' if kind == 'raw' else 'markdown'}]\n{lines}\n"


def _source(cell: dict) -> str:
    # Format 3 calls the source of a code cell `input`.
    source = cell.get("source", cell.get("input", ""))
    parts = source if isinstance(source, list) else [source]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("a source that is no text")
    return "".join(parts)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
