"""Runs a rule across documents as the stages do: keys to files, verdicts from files, what is left of the
documents.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.clean.canonical import without
from data_pipeline.documents.document import Document, content_id


def documents(*texts: str) -> list[Document]:
    return [Document(content_id(text), text, "web", f"p{i}", "g") for i, text in enumerate(texts)]


def write_keys(rule, texts, folder: Path, n_files: int = 2) -> list[Path]:
    """Key tables of the texts, numbered 0, 1, …; the rows of a file are neither neighbours nor sorted."""
    folder.mkdir(parents=True, exist_ok=True)
    _, signals = rule.annotate(documents(*texts))
    table = pa.table(
        {
            "document": np.arange(len(texts)),
            **{name: pa.array(values) for name, values in signals.items()},
        }
    )
    paths = [folder / f"{i}.parquet" for i in range(n_files)]
    for i, path in enumerate(paths):
        pq.write_table(table.take(np.arange(len(texts))[::-1][i::n_files]), path)
    return paths


def verdicts_of(rule, texts, folder: Path, n_files: int = 2) -> dict[str, np.ndarray]:
    rule.resolve(write_keys(rule, texts, folder, n_files), folder / "out" / "verdicts.parquet")
    table = pq.read_table(folder / "out" / "verdicts.parquet")
    return {name: table[name].to_numpy() for name in table.column_names}


def left_of(rule, texts, folder: Path) -> list[str | None]:
    """Each text after the rule, None where it was dropped."""
    verdicts = verdicts_of(rule, texts, folder)
    dropped = set(rule.dropped(verdicts).tolist())
    left: list[str | None] = []
    for number, document in enumerate(documents(*texts)):
        mine = {name: values[verdicts["document"] == number] for name, values in verdicts.items()}
        spans = rule.spans(document, mine) if len(mine["document"]) else []
        left.append(None if number in dropped else without(document.text, spans))
    return left
