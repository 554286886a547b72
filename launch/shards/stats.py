"""`meshwright data stats`: how much there is, how long documents are, how well they pack, and what was
dropped.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.files import read_json
from data_pipeline.rows.pack import BestFit
from data_pipeline.rows.plan import planned
from data_pipeline.shards.shards import Shards
from launch.shards.folders import label, shard_folders
from launch.terminal.console import Console
from launch.terminal.drop_table import cut_table, drop_table

# 1 % and 99 % too, because the longest document alone says little about the tail.
QUANTILES = {"1 %": 0.01, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "99 %": 0.99, "longest": 1.0}
OF_A_PHASE = ("read", "kept", "held_out", "dropped", "fertility")  # of results.json


def stats(args: argparse.Namespace) -> None:
    """Print tables of amounts, lengths, packing, fertility and drops, or all of it as JSON.

    Raises:
        ValueError: --seq-len is below 2.
    """
    if args.seq_len is not None and args.seq_len < 2:
        raise ValueError(f"--seq-len {args.seq_len}: must be at least 2; raise it")
    folders = {label(folder, args.path): Shards(folder) for folder in shard_folders(args.path)}
    amounts = {name: counted(shards, args.seq_len) for name, shards in folders.items()}
    results = results_of(args.path, next(iter(folders.values())).folder)
    if args.json:
        phases = [{field: each.get(field, {}) for field in OF_A_PHASE} for each in results]
        print(json.dumps({"shards": amounts, "data_phases": phases}))
        return
    console = Console()
    rows = [amounts_row(*item) for item in amounts.items()]
    console.table("Amounts", ("shards", "documents", "tokens", "MB", "bytes/token"), rows)
    rows = [lengths_row(*item) for item in amounts.items()]
    console.table("Tokens a document", ("shards", *QUANTILES), rows)
    if rows := [packed_row(*item) for item in amounts.items() if "packed" in item[1]]:
        heads = ("shards", "rows", "full", "documents cut")
        console.table(f"Packed into rows of {args.seq_len:,}", heads, rows)
    for result in results:
        if rows := fertility(result):
            console.table(
                "Tokenizer, on held-out text", ("source", "bytes/token", "tokens/word"), rows
            )
        drops = {"Documents dropped": drop_table, "Cut out of documents that stayed": cut_table}
        for title, made in drops.items():
            heads, rows = made(result)
            if rows:
                console.table(title, heads, rows)


def counted(shards: Shards, seq_len: int | None) -> dict[str, Any]:
    """The numbers of a folder; `packed` only with a row length, and where a record is one sequence."""
    numbers = {unit: shards.manifest[unit] for unit in ("documents", "tokens", "bytes")}
    numbers["tokens_a_document"] = lengths(shards)
    # `lengths` has a column for each sequence of a record; pairs, which have two, are packed in
    # another way.
    if seq_len and shards.lengths.shape[1] == 1:
        numbers["packed"] = packed(shards, seq_len)
    return numbers


def lengths(shards: Shards) -> dict[str, int]:
    """Quantiles of the tokens a document."""
    tokens = shards.lengths.sum(1)
    if not len(tokens):
        return dict.fromkeys(QUANTILES, 0)
    # "lower": a length that occurs, not the mean of two.
    quantiles = np.quantile(tokens, list(QUANTILES.values()), method="lower")
    return {name: int(n) for name, n in zip(QUANTILES, quantiles, strict=True)}


def packed(shards: Shards, seq_len: int) -> dict[str, Any]:
    """How many rows there would be, and how full; the plan is made as the loader makes it, and not stored."""
    targets = (shards.lengths[:, 0] - 1).clip(min=0)  # the first token is never a target
    # In blocks of documents, as the loader plans corpora that are larger than memory.
    plans = list(planned(len(targets), lambda block: BestFit().plan(targets[block], seq_len)))
    n_rows = sum(map(len, plans))
    n_cut = int((targets > seq_len).sum())
    # A row that is full has seq_len targets.
    full = float(targets.sum()) / max(1, n_rows * seq_len)
    return {"seq_len": seq_len, "rows": n_rows, "full": full, "documents_cut": n_cut}


def amounts_row(name: str, numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of the table of amounts."""
    documents, tokens, n_bytes = (numbers[unit] for unit in ("documents", "tokens", "bytes"))
    return (
        name,
        f"{documents:,}",
        f"{tokens:,}",
        f"{n_bytes / 1e6:,.2f}",
        f"{n_bytes / max(1, tokens):.2f}",
    )


def lengths_row(name: str, numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of the table of lengths."""
    return name, *(f"{n:,}" for n in numbers["tokens_a_document"].values())


def packed_row(name: str, numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of the table of packing."""
    rows, full, n_cut = (numbers["packed"][field] for field in ("rows", "full", "documents_cut"))
    return name, f"{rows:,}", f"{full:.2%}", f"{n_cut:,}"


def results_of(path: Path, folder: Path) -> list[dict[str, Any]]:
    """results.json of the data phases below `path`, or of the one that holds the folder of shards."""
    # In a data phase itself, in the phases of a run, or (for DATA/train/web) two folders above.
    files = [*path.glob("results.json"), *path.glob("*/results.json")] or [
        folder.parents[1] / "results.json"
    ]
    results = [read_json(file) for file in files if file.is_file()]
    # Results of trained phases have no drops.
    return [result for result in results if "dropped" in result]


def fertility(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row a source: bytes a token and tokens a word of the held-out text."""
    rows = result.get("fertility", {}).items()
    return [
        (source, f"{row['bytes_per_token']:.2f}", f"{row['tokens_per_word']:.2f}")
        for source, row in rows
    ]
