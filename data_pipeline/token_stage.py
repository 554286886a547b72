"""Clean text → token shards."""

import os
from collections.abc import Callable, Iterator
from itertools import batched
from pathlib import Path

import numpy as np

from data_pipeline import corpus
from data_pipeline.docstring_chats import DocstringChats
from data_pipeline.files import sha256
from data_pipeline.progress import Progress
from data_pipeline.shards import Record, Sequence, write_shards
from data_pipeline.tokenizer import Tokenizer

BATCH = 64  # documents encoded at a time


def write_tokens(
    folder: Path,
    text: Path,
    tokenizer: Tokenizer,
    *,
    amount: dict[str, int],
    chats: DocstringChats | None,
    shard_records: int,
    progress: Progress,
) -> None:
    """Write the documents of `text` (`<bos>` text `<eos>`), or its conversations when `chats` says how, as the shards `folder`."""
    source, lineage = folder.name, {"tokenizer": tokenizer.fingerprint, "text": sha256(text)}
    with progress(f"  tokens of {folder.parent.name}/{source}", amount["documents"], unit="documents") as advance:
        if chats is None:
            records, n_bytes = _document_records(text, tokenizer, advance), amount["bytes"]
        else:
            made = list(chats.records(corpus.read_lines(text), tokenizer))
            records, n_bytes = iter([record for record, _ in made]), sum(n for _, n in made)
        write_shards(folder, records, source=source, n_bytes=n_bytes, shard_records=shard_records, lineage=lineage)


def _document_records(path: Path, tokenizer: Tokenizer, advance: Callable[..., None]) -> Iterator[Record]:
    n_threads = min(8, os.cpu_count() or 1)  # the library's threads; starting processes costs more than they save at 4 MB/s a core
    for batch in batched(corpus.read_documents(path), BATCH):
        encoded = tokenizer.encode_all([document.text for document in batch], n_threads=n_threads)
        for document, ids in zip(batch, encoded, strict=True):
            tokens = np.array([tokenizer.bos, *ids, tokenizer.eos], np.int32)
            yield Record(document.id, (Sequence(tokens, np.ones(len(tokens), np.uint8)),))  # each token is a target
        advance(len(batch))
