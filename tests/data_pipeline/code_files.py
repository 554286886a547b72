"""Trees of source files for the tests of their reader."""

from pathlib import Path

from data_pipeline.documents.drops import Drops
from data_pipeline.readers.code_tree import CodeTree
from data_pipeline.readers.part import read_all

CODE = b"def f(x):\n    return x + 1\n"


MIT = """MIT License\n\nCopyright (c) 2020 Somebody\n\nPermission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal in the Software without restriction.

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.\n"""


def write(root: Path, files: dict[str, bytes | str]) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data.encode() if isinstance(data, str) else data)


def read(reader, work: Path):
    drops = Drops()
    return list(read_all(reader, "code", work=work, drops=drops)), dict(
        drops.counts.get("code", {})
    )


def tree(root: Path, **fields):
    return read(CodeTree(folder=str(root), **fields), root)


def licences_in(root: Path, files: dict[str, bytes | str]) -> dict[str, str]:
    """Path → licence of the documents that these files give."""
    write(root, files)
    return {document.path: document.licence for document in tree(root)[0]}
