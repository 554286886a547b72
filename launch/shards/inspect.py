"""`meshwright data inspect`: the manifest of a folder of shards in words, and a document of it as text."""

import argparse
import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from data_pipeline.shards.record import Record
from data_pipeline.shards.shards import MANIFEST, Shards
from data_pipeline.tokenizers.tokenizer import Tokenizer
from launch.shards.folders import shard_folders, tokenizer_of

FIRST_CHARS = 1000  # of a document, unless --text asks for all of it
N_SHOWN = 3  # raw files
ORIGIN = ("path", "language", "licence", "time")


def inspect(args: argparse.Namespace) -> None:
    """Print a line a subject about shards, and a document if `args.document` names one; or all of it as
    JSON.

    Raises:
        ValueError: there is no such document, or --text without one or beside --json.
    """
    if args.text and args.json:
        raise ValueError("--text prints a text alone, and --json has it too; leave one of them out")
    if args.text and args.document is None:
        raise ValueError("--text prints a document; name one by --document N or --document ID")
    if not (args.path / MANIFEST).is_file():
        # Of a run or a data folder: its shards are somewhere below.
        names = [str(folder) for folder in shard_folders(args.path)]
        raise ValueError(f"{args.path} is no folder of shards; name one of {', '.join(names)}")
    shards = Shards(args.path)
    if not args.text and not args.json:
        print("\n".join(described(shards)))
    numbers = [] if args.document is None else numbers_of(shards, args.document)
    # Only now, because the manifest can be shown even if the tokenizer is missing.
    tokenizer = tokenizer_of(shards, args.tokenizer) if numbers else None
    if args.json:
        documents = [as_json(shards, number, tokenizer) for number in numbers]
        print(json.dumps({"manifest": shards.manifest, "documents": documents}))
        return
    for number in numbers:
        record = shards[number]
        if args.text:
            print("\n".join(texts_of(record, tokenizer)))
        else:
            print("\n".join(shown(shards, number, record, tokenizer)))


def described(shards: Shards) -> Iterator[str]:
    """The manifest, a line a subject."""
    manifest = shards.manifest
    n_tokens, n_bytes = manifest["tokens"], manifest["bytes"]
    amounts = (
        f"{manifest['documents']:,} documents, {n_tokens:,} tokens, {n_bytes / 1e6:,.2f} MB of text"
    )
    per_token = f"{n_bytes / max(1, n_tokens):.2f} bytes a token"
    yield f"{shards.folder}: {manifest['source']}, {amounts}, {per_token}"
    lengths = shards.lengths.sum(1)
    if len(lengths):
        # "lower": a length that occurs, not the mean of two.
        low, middle, high = np.quantile(lengths, (0, 0.5, 1), method="lower")
        yield f"  lengths    {low:,} to {high:,} tokens, median {middle:,}"
    files = [shard for segment in shards.segments for shard in segment.manifest["shards"]]
    megabytes = sum(file["size"] for file in files) / 1e6
    yield f"  shards     {len(files)} in {len(shards.segments)} segment(s), {megabytes:,.2f} MB"
    yield f"  content    {manifest['content_hash']}"
    lineage = manifest["lineage"]
    # Lists and mappings are left out; the raw files are shown below.
    yield from (
        f"  {name:<10} {value}" for name, value in lineage.items() if isinstance(value, str | int)
    )
    yield from _raw_files(lineage.get("text"))
    yield "  made by    " + ", ".join(
        f"{name} {version}" for name, version in manifest["tools"].items()
    )


def _raw_files(texts: Any) -> Iterator[str]:
    """The raw input that documents were read from."""
    # Chats are made from documents, whose own shards name the raw files.
    if not isinstance(texts, list):
        return
    inputs = {path: digest for text in texts for path, digest in text["inputs"].items()}
    more = f", the first {N_SHOWN}:" if len(inputs) > N_SHOWN else ""
    yield f"  made from  {len(texts)} part(s) of {len(inputs)} raw files{more}"
    yield from (
        f"             {path} (SHA-256 {digest})" for path, digest in list(inputs.items())[:N_SHOWN]
    )


def numbers_of(shards: Shards, wanted: str) -> list[int]:
    """The documents that `wanted` means: a number, else an id.

    Raises:
        ValueError: there is no such document.
    """
    # A number that is too large may still be an id, which is hexadecimal and may have digits only.
    if wanted.isdecimal() and int(wanted) < len(shards):
        return [int(wanted)]
    if numbers := shards.find(wanted):
        return numbers
    remedy = f"give a number from 0 to {len(shards) - 1}, or an id"
    raise ValueError(f"--document {wanted}: {shards.folder} has no such document; {remedy}")


def texts_of(record: Record, tokenizer: Tokenizer) -> list[str]:
    """The text of each sequence, without control tokens."""
    return [tokenizer.decode(sequence.tokens) for sequence in record.sequences]


def shown(shards: Shards, number: int, record: Record, tokenizer: Tokenizer) -> Iterator[str]:
    """A document in words, and how its text begins."""
    yield f"document {number}, id {record.id}"
    yield from (
        f"  {name:<10} {value}" for name, value in origin_of(shards, record.id).items() if value
    )

    # The record of a preference pair holds two sequences.
    names = ("",) if len(record.sequences) == 1 else ("chosen: ", "rejected: ")
    for name, sequence in zip(names, record.sequences, strict=True):
        text = marked(sequence.tokens.tolist(), tokenizer)
        # Weights are 0 or 1, so their sum counts the targets.
        yield f"  {name}{len(sequence.tokens):,} tokens, {int(sequence.weight.sum()):,} of them targets"
        yield text[:FIRST_CHARS]
        if len(text) > FIRST_CHARS:
            yield f"… {len(text) - FIRST_CHARS:,} more characters; --text prints all"


def as_json(shards: Shards, number: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """A document with its whole text: a record for each of its sequences."""
    record = shards[number]
    sequences = [
        {
            "tokens": len(sequence.tokens),
            "targets": int(sequence.weight.sum()),
            "text": marked(sequence.tokens.tolist(), tokenizer),
        }
        for sequence in record.sequences
    ]
    # A time is no JSON.
    origin = {name: str(value) for name, value in origin_of(shards, record.id).items() if value}
    return {"number": number, "id": record.id, "origin": origin, "sequences": sequences}


def marked(tokens: list[int], tokenizer: Tokenizer) -> str:
    """Text with its control tokens as `<|user|>` and the like."""
    pieces = {i: piece for piece, i in tokenizer.control.items()}
    # Ordinary tokens are decoded together, because a letter may be divided between two tokens.
    runs = groupby(tokens, key=pieces.get)
    return "".join(
        piece * len(list(run)) if piece else tokenizer.decode(run) for piece, run in runs
    )


def origin_of(shards: Shards, document: str) -> dict[str, str]:
    """Where a document comes from, by the file of its clean text; {} if that has been deleted."""
    texts = shards.manifest["lineage"].get("text")
    # Shards are in DATA/train/web; `file` names the clean text relative to DATA.
    for text in texts if isinstance(texts, list) else ():
        file = shards.folder.resolve().parents[1] / text.get("file", "")
        if file.is_file():
            for row in pq.read_table(
                file, columns=list(ORIGIN), filters=[("id", "=", document)]
            ).to_pylist():
                return row
    return {}
