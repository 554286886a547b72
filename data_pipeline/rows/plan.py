"""Pack plans as files beside the shards: made once for a content, a row length and a strategy, and mapped
ever after.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.rows.pack import Plan
from data_pipeline.shards.npy import new_array, read_array

VERSION = 1  # of the plan files; a packing component has a VERSION of its own
# planned at a time: bounds the memory, and leaves at most one half-empty row in millions of documents
DOCUMENTS_A_BLOCK = 1 << 22


def plan_key(*parts: Any) -> str:
    """16 hex digits of all that a plan depends on, as JSON."""
    # 16 digits are 64 bits: enough to tell the few plans of a folder apart
    return hashlib.sha256(json.dumps([VERSION, *parts], sort_keys=True).encode()).hexdigest()[:16]


def planned(n_documents: int, plan_some: Callable[[slice], Plan]) -> Iterator[Plan]:
    """Plans of one block of documents after another, which behind one another are one plan: documents and
    pieces are counted through, and the first offset of all is 0.
    """
    n_pieces = 0
    for first in range(0, max(n_documents, 1), DOCUMENTS_A_BLOCK):
        block = plan_some(slice(first, min(first + DOCUMENTS_A_BLOCK, n_documents)))

        # a further block's offset 0 is the end of the block before: it is there already
        offsets = block.offsets[1:] if first else block.offsets
        yield Plan(block.pieces + np.array([first, 0, 0]), offsets + n_pieces)
        n_pieces += len(block.pieces)


def stored_plan(folder: Path, key: str, blocks: Iterator[Plan]) -> Plan:
    """The plan `key` of a folder of shards, made of `blocks` if it is not there; held in memory where the
    folder cannot be written to.

    Processes that make it at once write the same files, each replaced in one step.

    Raises:
        OutputError: the disk is full. ValueError: the files are damaged.
    """
    pieces = folder / "plans" / f"{key}-pieces.npy"
    offsets = folder / "plans" / f"{key}-offsets.npy"
    # `_write` makes the offsets appear last, so if they exist both files do.
    if not offsets.exists():
        # Shared data sets are often read-only; then the plan is made again at each start.
        if not os.access(folder, os.W_OK):
            return Plan(*map(np.concatenate, zip(*blocks, strict=True)))
        _write(pieces, offsets, blocks)
    try:
        plan = Plan(read_array(pieces), read_array(offsets))
    except (ValueError, EOFError, FileNotFoundError) as error:
        raise ValueError(
            f"{pieces.parent} cannot be read ({error}); delete it, plans are made again from the shards"
        ) from error
    if len(plan.pieces) != plan.offsets[-1]:
        raise ValueError(
            f"{offsets} does not belong to {pieces}; delete {pieces.parent}, plans are made again from the "
            "shards"
        )
    return plan


def _write(pieces: Path, offsets: Path, blocks: Iterator[Plan]) -> None:
    # Contexts end in reverse order: the offsets appear last, when the plan is complete.
    with (
        new_array(offsets, np.int64) as append_offsets,
        new_array(pieces, np.int64, (3,)) as append_pieces,
    ):
        for block in blocks:
            append_pieces(block.pieces)
            append_offsets(block.offsets)
