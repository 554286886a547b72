"""`meshwright data stats`: how much there is, how long documents are, how well they pack, and what was
dropped.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.rows.pack import BestFit
from data_pipeline.rows.plan import planned
from data_pipeline.shards.shards import Shards
from launch.shards.folders import label, shard_folders
from launch.terminal.console import Console
from launch.terminal.drop_table import cut_table, drop_table

# 1 % and 99 % too, because the longest document alone says little about the tail.
QUANTILES = {"1 %": 0.01, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "99 %": 0.99, "longest": 1.0}


def stats(args: argparse.Namespace) -> None:
    """Print tables of amounts, lengths, packing, fertility and drops.

    Raises:
        ValueError: --seq-len is below 2.
    """
    if args.seq_len is not None and args.seq_len < 2:
        raise ValueError(f"--seq-len {args.seq_len}: must be at least 2; raise it")
    console = Console()
    folders = {label(folder, args.path): Shards(folder) for folder in shard_folders(args.path)}
    heads = ("shards", "documents", "tokens", "MB", "bytes/token")
    console.table("Amounts", heads, [amounts(*item) for item in folders.items()])
    console.table(
        "Tokens a document", ("shards", *QUANTILES), [lengths(*item) for item in folders.items()]
    )
    if args.seq_len:
        # `lengths` has a column for each sequence of a record; pairs, which have two, are packed
        # in another way.
        single = {name: shards for name, shards in folders.items() if shards.lengths.shape[1] == 1}
        rows = [packed(name, shards, args.seq_len) for name, shards in single.items()]
        heads = ("shards", "rows", "full", "documents cut")
        console.table(f"Packed into rows of {args.seq_len:,}", heads, rows)
    for result in results_of(args.path, next(iter(folders.values())).folder):
        if rows := fertility(result):
            console.table(
                "Tokenizer, on held-out text", ("source", "bytes/token", "tokens/word"), rows
            )
        drops = {"Documents dropped": drop_table, "Cut out of documents that stayed": cut_table}
        for title, made in drops.items():
            heads, rows = made(result)
            if rows:
                console.table(title, heads, rows)


def amounts(name: str, shards: Shards) -> tuple[str, ...]:
    """A row of the table of amounts."""
    documents, tokens, n_bytes = (
        shards.manifest[unit] for unit in ("documents", "tokens", "bytes")
    )
    return (
        name,
        f"{documents:,}",
        f"{tokens:,}",
        f"{n_bytes / 1e6:,.2f}",
        f"{n_bytes / max(1, tokens):.2f}",
    )


def lengths(name: str, shards: Shards) -> tuple[str, ...]:
    """A row of the table of lengths: quantiles of tokens a document."""
    tokens = shards.lengths.sum(1)
    if not len(tokens):
        return name, *("0" for _ in QUANTILES)
    # "lower": a length that occurs, not the mean of two.
    quantiles = np.quantile(tokens, list(QUANTILES.values()), method="lower")
    return name, *(f"{n:,.0f}" for n in quantiles)


def packed(name: str, shards: Shards, seq_len: int) -> tuple[str, ...]:
    """A row of the table of packing; the plan is made as the loader makes it, and not stored."""
    targets = (shards.lengths[:, 0] - 1).clip(min=0)  # the first token is never a target
    # In blocks of documents, as the loader plans corpora that are larger than memory.
    plans = list(planned(len(targets), lambda block: BestFit().plan(targets[block], seq_len)))
    n_rows = sum(map(len, plans))
    n_cut = int((targets > seq_len).sum())
    # A row that is full has seq_len targets.
    full = targets.sum() / max(1, n_rows * seq_len)
    return name, f"{n_rows:,}", f"{full:.2%}", f"{n_cut:,}"


def results_of(path: Path, folder: Path) -> list[dict[str, Any]]:
    """results.json of the data phases below `path`, or of the one that holds the folder of shards."""
    # In a data phase itself, in the phases of a run, or (for DATA/train/web) two folders above.
    files = [*path.glob("results.json"), *path.glob("*/results.json")] or [
        folder.parents[1] / "results.json"
    ]
    results = [json.loads(file.read_bytes()) for file in files if file.is_file()]
    # Results of trained phases have no drops.
    return [result for result in results if "dropped" in result]


def fertility(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row a source: bytes a token and tokens a word of the held-out text."""
    rows = result.get("fertility", {}).items()
    return [
        (source, f"{row['bytes_per_token']:.2f}", f"{row['tokens_per_word']:.2f}")
        for source, row in rows
    ]
