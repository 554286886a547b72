"""`meshwright data verify`: whether shards are still what was written, byte for byte."""

import argparse
import json
from pathlib import Path
from typing import Any

from data_pipeline.files import sha256
from data_pipeline.shards.shards import Shards
from launch.running.lineage import read_json
from launch.shards.folders import label, shard_folders

# More would fill the screen with effects of one cause.
MAX_NAMED = 5


def verify(args: argparse.Namespace) -> None:
    """Read every file once and print a line a folder, or all of it as JSON.

    Raises:
        ValueError: something is damaged; the first MAX_NAMED problems are named.
    """
    folders = shard_folders(args.path)
    damage: list[str] = []
    amounts: dict[str, dict[str, int] | None] = {}  # by folder; None: damaged
    for folder in folders:
        name = label(folder, args.path)
        try:
            amounts[name] = verified(folder)
        except (ValueError, OSError) as error:
            amounts[name] = None
            damage.append(str(error))
        if not args.json:
            # One by one, since a large corpus takes minutes.
            print(f"{name}: {in_words(amounts[name])}", flush=True)
    # Several folders of shards share one tokenizer, so it is compared once.
    for data in sorted({data_folder(folder) for folder in folders}):
        try:
            check_tokenizer(data)
        except ValueError as error:
            damage.append(str(error))
    # A done.json that is broken was read for each folder.
    damage = list(dict.fromkeys(damage))
    if args.json:
        # Whole, although there may be damage: exit code 2 and standard error say so too.
        print(json.dumps({"folders": amounts, "damage": damage}), flush=True)
    if damage:
        more = f"; and {len(damage) - MAX_NAMED} more" if len(damage) > MAX_NAMED else ""
        raise ValueError("; ".join(damage[:MAX_NAMED]) + more)


def verified(folder: Path) -> dict[str, int]:
    """How much is in a folder of shards that is as it was written.

    Raises:
        ValueError: something differs.
    """
    shards = Shards(folder)
    # Compares the files of every segment with the digests in its manifest.
    shards.verify()
    check_done(folder, shards)
    files = [shard for segment in shards.segments for shard in segment.manifest["shards"]]
    n_bytes = sum(file["size"] for file in files)
    return {"shards": len(files), "documents": len(shards), "bytes": n_bytes}


def in_words(amounts: dict[str, int] | None) -> str:
    """What the line of a folder says."""
    if amounts is None:
        return "damaged"
    megabytes = f"{amounts['bytes'] / 1e6:,.2f} MB"
    return (
        f"as written: {amounts['shards']} shards, {amounts['documents']:,} documents, {megabytes}"
    )


def data_folder(folder: Path) -> Path:
    """The data phase that shards belong to: DATA of DATA/train/web."""
    return folder.resolve().parents[1]


def done_of(data: Path) -> dict[str, Any]:
    """done.json of a data phase, with the digests of what it made; {} where there is none."""
    return read_json(data / "done.json") or {}


def check_done(folder: Path, shards: Shards) -> None:
    """Compare the first segment with done.json: files edited together with their manifest are found here.

    Raises:
        ValueError: they differ.
    """
    data = data_folder(folder)
    # done.json names shards by their folder, relative to that of the data phase.
    expected = done_of(data).get("contents", {}).get(folder.resolve().relative_to(data).as_posix())
    # Later segments were appended after done.json was written.
    if expected not in (None, shards.segments[0].manifest["content_hash"]):
        problem = f"{folder} is not what {data / 'done.json'} says (another content hash)"
        raise ValueError(f"{problem}; delete both and prepare again")


def check_tokenizer(data: Path) -> None:
    """Compare the tokenizer of a finished data phase with its done.json.

    Raises:
        ValueError: they differ.
    """
    expected = done_of(data).get("tokenizer")
    model = data / "tokenizer.model"
    if expected is None or (model.is_file() and sha256(model) == expected):
        return
    problem = f"{model} is not the tokenizer that the data phase made (its SHA-256 differs)"
    raise ValueError(f"{problem}; delete {data / 'done.json'} and prepare again")
