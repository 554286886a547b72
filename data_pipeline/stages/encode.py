"""Documents as rows of tokens, each with its shard and its place there, which depend on its id and the seed
alone.
"""

from itertools import batched
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from data_pipeline.documents import corpus
from data_pipeline.documents.document import Document
from data_pipeline.documents.sampling import key_of
from data_pipeline.stages.text import Text
from data_pipeline.tokenizers.tokenizer import Tokenizer

SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("rank", pa.uint64()),
        ("id", pa.large_string()),
        ("text_bytes", pa.int64()),
        ("tokens", pa.large_binary()),
    ]
)
BATCH = 64  # documents encoded at a time
ROWS = 1000  # in a row group: what a reader of one shard may read in vain


class Encoding(NamedTuple):
    """How documents become records: by which tokenizer, and in which of how many shards they go."""

    tokenizer: Path
    seed: int
    n_shards: int


def encode(task: tuple[Text, Path, Encoding]) -> None:
    """Encode one part of the text into the file of the task; a process does it."""
    text, path, encoding = task
    # Loaded in the process: a sentencepiece model is sent as a path, not pickled.
    tokenizer = Tokenizer(encoding.tokenizer)
    rows: list[tuple] = []
    for batch in batched(corpus.read_documents(text.path), BATCH):
        encoded = tokenizer.encode_all([document.text for document in batch])
        for document, ids in zip(batch, encoded, strict=True):
            # <eos> is a target too, because a model has to learn where texts end.
            tokens = np.array([tokenizer.bos, *ids, tokenizer.eos], np.int32)
            rank = rank_of(document, encoding.seed)
            # Rank is a hash, so shards get equal shares of every kind of document.
            shard = rank % encoding.n_shards
            rows.append((shard, rank, document.id, len(document.text.encode()), tokens.tobytes()))
    rows.sort()  # by shard first: a reader of one shard skips the row groups of the others
    columns = zip(*rows, strict=True)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
    corpus.write_table(path, pa.table(arrays, SCHEMA), rows_a_group=ROWS)


def rank_of(document: Document, seed: int) -> int:
    """A document's place in the order of its source, in [0, 2**64)."""
    return int.from_bytes(key_of(seed, document.id))
