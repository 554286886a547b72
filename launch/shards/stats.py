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
from launch.terminal.drop_table import drop_table

QUANTILES = {"1 %": 0.01, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "99 %": 0.99, "longest": 1.0}


def stats(args: argparse.Namespace) -> None:
    """Print the tables."""
    if args.seq_len is not None and args.seq_len < 2:
        raise ValueError(f"--seq-len {args.seq_len}: must be at least 2; raise it")
    console = Console()
    folders = {label(folder, args.path): Shards(folder) for folder in shard_folders(args.path)}
    console.table(
        "Amounts",
        ("shards", "documents", "tokens", "MB", "bytes/token"),
        [amounts(*item) for item in folders.items()],
    )
    console.table("Tokens a document", ("shards", *QUANTILES), [lengths(*item) for item in folders.items()])
    if args.seq_len:
        rows = [
            packed(name, shards, args.seq_len)
            for name, shards in folders.items()
            if shards.lengths.shape[1] == 1
        ]
        console.table(
            f"Packed into rows of {args.seq_len:,}", ("shards", "rows", "full", "documents cut"), rows
        )
    for result in results_of(args.path, next(iter(folders.values())).folder):
        if rows := fertility(result):
            console.table("Tokenizer, on held-out text", ("source", "bytes/token", "tokens/word"), rows)
        heads, rows = drop_table(result)
        if rows:
            console.table("Dropped", heads, rows)


def amounts(name: str, shards: Shards) -> tuple[str, ...]:
    """A row of the first table."""
    documents, tokens, n_bytes = (shards.manifest[unit] for unit in ("documents", "tokens", "bytes"))
    return name, f"{documents:,}", f"{tokens:,}", f"{n_bytes / 1e6:,.2f}", f"{n_bytes / max(1, tokens):.2f}"


def lengths(name: str, shards: Shards) -> tuple[str, ...]:
    """A row of the second table."""
    tokens = shards.lengths.sum(1)
    found = (
        np.quantile(tokens, list(QUANTILES.values()), method="lower")
        if len(tokens)
        else np.zeros(len(QUANTILES))
    )
    return name, *(f"{n:,.0f}" for n in found)


def packed(name: str, shards: Shards, seq_len: int) -> tuple[str, ...]:
    """How documents fill rows; planned as the loader does, and not kept."""
    targets = (shards.lengths[:, 0] - 1).clip(min=0)  # the first token is never a target
    plans = list(planned(len(targets), lambda some: BestFit().plan(targets[some], seq_len)))
    n_rows, n_cut = sum(map(len, plans)), int((targets > seq_len).sum())
    full = targets.sum() / max(1, n_rows * seq_len)
    return name, f"{n_rows:,}", f"{full:.2%}", f"{n_cut:,}"


def results_of(path: Path, folder: Path) -> list[dict[str, Any]]:
    """The accounts of the data phases that are there: below `path`, or above a folder of shards."""
    files = [*path.glob("results.json"), *path.glob("*/results.json")] or [folder.parents[1] / "results.json"]
    found = [json.loads(file.read_bytes()) for file in files if file.is_file()]
    return [result for result in found if "dropped" in result]


def fertility(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row a source, of the account of a data phase."""
    rows = result.get("fertility", {}).items()
    return [
        (source, f"{row['bytes_per_token']:.2f}", f"{row['tokens_per_word']:.2f}") for source, row in rows
    ]
