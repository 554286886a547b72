"""A tokenized document, conversation or pair, and its bytes in a shard."""

import re
from typing import NamedTuple

import msgpack
import numpy as np

from data_pipeline.documents.sampling import key_of


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
        if not 0 < len(tokens) == len(weight):
            raise ValueError(
                f"record {record.id}: {len(tokens)} tokens with {len(weight)} weights; there must be tokens, one weight each"
            )
        width = "<u2" if tokens.max() < 1 << 16 else "<u4"
        packed.append(
            (
                len(tokens),
                tokens.astype(width).tobytes(),
                None if weight.all() else weight.astype(np.uint8).tobytes(),
            )
        )
    return msgpack.packb((record.id, packed))


def unpack(data: bytes) -> Record:
    """The record that `pack` made into `data`."""
    name, packed = msgpack.unpackb(data)
    sequences = []
    for n, tokens, weight in packed:
        tokens = np.frombuffer(tokens, "<u2" if len(tokens) == 2 * n else "<u4").astype(np.int32)
        sequences.append(
            Sequence(tokens, np.ones(n, np.uint8) if weight is None else np.frombuffer(weight, np.uint8))
        )
    return Record(name, tuple(sequences))


def id_key(document_id: str) -> int:
    """64 bits that stand for an id in an index; of 16 hex digits, as `content_id` makes them, their value."""
    return (
        int(document_id, 16)
        if re.fullmatch("[0-9a-f]{16}", document_id)
        else int.from_bytes(key_of(document_id))
    )
