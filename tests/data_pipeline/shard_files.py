"""Random records, and folders of shards to hold them."""

from pathlib import Path

import numpy as np

from data_pipeline.shards.record import Record, Sequence
from data_pipeline.shards.shards import Shards, append_shards, write_shards


def make(n: int, *, n_sequences: int = 1, vocab_size: int = 4096, seed: int = 0) -> list[Record]:
    rng = np.random.default_rng(seed)

    def sequence() -> Sequence:
        n_tokens = int(rng.integers(1, 40))
        return Sequence(
            rng.integers(0, vocab_size, n_tokens, np.int32), rng.integers(0, 2, n_tokens, np.uint8)
        )

    return [Record(f"{i:04x}", tuple(sequence() for _ in range(n_sequences))) for i in range(n)]


def write(folder: Path, records: list[Record], *, shard_records: int = 7) -> Shards:
    write_shards(
        folder,
        iter(records),
        source="code",
        n_bytes=1234,
        shard_records=shard_records,
        lineage={"tokenizer": "abc"},
    )
    return Shards(folder)


def assert_equal(read: list[Record], expected: list[Record]) -> None:
    assert [record.id for record in read] == [record.id for record in expected]
    for one, other in zip(read, expected, strict=True):
        assert len(one.sequences) == len(other.sequences)
        for a, b in zip(one.sequences, other.sequences, strict=True):
            assert (a.tokens.dtype, a.weight.dtype) == (np.int32, np.uint8)
            assert a.tokens.tolist() == b.tokens.tolist() and a.weight.tolist() == b.weight.tolist()


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.data_pipeline.shard_files import make, write
def stop_after(records, n):
    for i, record in enumerate(records):
        if i == n:
            os.kill(os.getpid(), signal.SIGKILL)
        yield record
write(Path(sys.argv[1]), stop_after(make(30), int(sys.argv[2])))
"""


def append(folder: Path, records: list[Record]) -> Path:
    return append_shards(folder, records, source="code", n_bytes=100, shard_records=7, lineage={})
