"""Conversations and preference pairs made of the documents of one source, and their token shards."""

import shutil
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from data_pipeline import settings
from data_pipeline.chat.format import chat_format_of
from data_pipeline.clean.overlap import HeldOutIndex
from data_pipeline.documents import corpus
from data_pipeline.files import (
    new_folder,
    read_json,
    read_json_lines,
    replace_folder,
    sha256,
    write_json,
    write_json_lines,
)
from data_pipeline.shards.shards import MANIFEST, write_shards
from data_pipeline.stages.docstring_chats import DocstringChats
from data_pipeline.stages.text import SIDES, TRAIN, Text
from data_pipeline.tokenizers.tokenizer import Tokenizer

VERSION = 1  # of what this stage makes of the same texts and chats
KINDS = ("chat", "pairs")
COUNTS = "counts.json"


def make_chats(
    chats: DocstringChats, texts: Sequence[Text], index: HeldOutIndex, stage: Path, *, seed: int
) -> Path:
    """The folder of both sides' rows, SIDE/KIND.jsonl, and of how many there are."""
    source_texts = [text for text in texts if text.source == chats.source]
    key = settings.digest(
        [
            VERSION,
            # max_tokens applies only when tokens are written, so it does not change the rows.
            settings.described(chats, without=("max_tokens",)),
            [text.sha256 for text in source_texts],
            seed,
        ]
    )
    target = stage / key
    if target.exists():
        return target
    counts: dict[str, dict[str, int]] = {}
    with new_folder(target, sealed=True) as partial_folder:
        for side in SIDES:
            paths = [text.path for text in source_texts if text.side == side]
            documents = chain.from_iterable(map(corpus.read_documents, paths))
            # training rows must not repeat a held-out text
            excluded = index if side == TRAIN else None
            made = chats.rows(documents, excluded, seed=seed)
            for kind, (rows, n_over) in made.items():
                write_json_lines(partial_folder / side / f"{kind}.jsonl", rows)
                counts[f"{side}/{kind}"] = {"rows": len(rows), "over": n_over}
        write_json(partial_folder / COUNTS, counts)
    return target


def counts_of(made: Path) -> dict[str, dict[str, int]]:
    """SIDE/KIND → how many rows there are, and how many were over the number asked for."""
    return read_json(made / COUNTS)


def write_tokens(
    chats: DocstringChats, made: Path, folder: Path, tokenizer: Tokenizer, *, shard_records: int
) -> None:
    """Write the rows of each side and kind as the shards `folder`/SIDE/KIND, unless they are there."""
    chat = chat_format_of(tokenizer)
    for name in counts_of(made):
        rows = made / f"{name}.jsonl"
        target = folder / name
        lineage = {
            "version": VERSION,
            "tokenizer": tokenizer.fingerprint,
            "format": f"{type(chat).__name__} {chat.VERSION}",
            "text": sha256(rows),
            "max_tokens": chats.max_tokens,
        }
        if (target / MANIFEST).exists() and read_json(target / MANIFEST)["lineage"] == lineage:
            continue
        # All in memory, because `write_shards` takes the number of bytes; `n_chats` bounds them.
        records = list(chats.records(read_json_lines(rows), chat))
        # The old shards stay until the new ones are whole.
        partial_folder = target.with_name(f".{target.name}.new")
        # of a process that was killed before it could put them in their place
        shutil.rmtree(partial_folder, ignore_errors=True)
        write_shards(
            partial_folder,
            (record for record, _ in records),
            source=target.name,
            n_bytes=sum(n for _, n in records),
            shard_records=shard_records,
            lineage=lineage,
        )
        replace_folder(target, partial_folder)
