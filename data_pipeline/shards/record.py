"""A tokenized document, conversation or pair, and its bytes in a shard."""

import re
from typing import NamedTuple

import msgpack
import numpy as np

from data_pipeline.documents.sampling import key_of

CONTENT_ID = re.compile("[0-9a-f]{16}")


class Sequence(NamedTuple):
    """Tokens and which of them are targets: `tokens` int32 [n], `weight` uint8 [n], 1 = the token is a
    target.
    """

    tokens: np.ndarray
    weight: np.ndarray


class Record(NamedTuple):
    """A document or a conversation has one sequence; a preference pair has two, chosen before rejected."""

    id: str
    sequences: tuple[Sequence, ...]


def pack(record: Record) -> bytes:
    """A record as bytes, which depend on nothing else: tokens in 16 bits where they fit, weights only where
    one is 0.

    Raises:
        ValueError: a sequence is empty, or its tokens and weights differ in number.
    """
    packed = []
    for tokens, weight in record.sequences:
        n = len(tokens)
        if not 0 < n == len(weight):
            raise ValueError(
                f"record {record.id}: {n} tokens with {len(weight)} weights; there must be tokens, one "
                "weight each"
            )

        # little-endian whatever the machine, so that shards can be copied anywhere
        width = "<u2" if tokens.max() < 1 << 16 else "<u4"
        weights = None if weight.all() else weight.astype(np.uint8).tobytes()
        packed.append((n, tokens.astype(width).tobytes(), weights))

    # msgpack has one encoding of each value, so equal records are equal bytes
    return msgpack.packb((record.id, packed))


def unpack(data: bytes) -> Record:
    """The record that `pack` made into `data`."""
    # The caller has compared the digest, so these bytes are what `pack` wrote.
    name, packed = msgpack.unpackb(data)
    sequences = []
    for n, token_bytes, weight_bytes in packed:
        # The number of bytes tells the width.
        width = "<u2" if len(token_bytes) == 2 * n else "<u4"
        tokens = np.frombuffer(token_bytes, width).astype(np.int32)
        if weight_bytes is None:
            weight = np.ones(n, np.uint8)
        else:
            weight = np.frombuffer(weight_bytes, np.uint8)
        sequences.append(Sequence(tokens, weight))
    return Record(name, tuple(sequences))


def id_key(document_id: str) -> int:
    """64 bits that stand for an id in an index; of 16 hex digits, as `content_id` makes them, their value."""
    if CONTENT_ID.fullmatch(document_id):
        return int(document_id, 16)

    # other ids, of chats or of a user's own tool, are hashed
    return int.from_bytes(key_of(document_id))
