"""Laws of token shards: read back what was written, in any order."""

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.shards.record import Record, Sequence, pack, unpack
from data_pipeline.shards.shards import (
    Shards,
)
from tests.data_pipeline.shard_files import assert_equal, make, write


@pytest.mark.parametrize("n_sequences", [1, 2])
@pytest.mark.parametrize("vocab_size", [300, 1 << 16, 200_000])
def test_records_come_back_as_written_in_any_order(n_sequences, vocab_size, tmp_path):
    records = make(30, n_sequences=n_sequences, vocab_size=vocab_size)
    shards = write(tmp_path / "code", records)
    shards.verify()
    order = [29, 0, 7, 6, 14, 7, 13, 28, np.int64(3)]
    assert len(shards) == 30 and len(shards.manifest["shards"]) == 5
    assert_equal(shards.__getitems__(range(30)), records)
    assert_equal(shards.__getitems__(order), [records[i] for i in order])
    assert_equal([shards[i] for i in order], [records[i] for i in order])
    assert shards.__getitems__([]) == []


@given(
    tokens=st.lists(st.integers(0, 2**31 - 1) | st.integers(0, 70_000), min_size=1, max_size=9),
    bits=st.integers(0, 2**9 - 1),
)
def test_packing_a_record_loses_nothing(tokens, bits):
    weight = np.array([bits >> i & 1 for i in range(len(tokens))], np.uint8)
    record = Record("x", (Sequence(np.array(tokens, np.int32), weight),))
    assert_equal([unpack(pack(record))], [record])


def test_small_vocabularies_take_two_bytes_a_token():
    ones = np.ones(1000, np.uint8)
    assert len(pack(Record("x", (Sequence(np.full(1000, 4095, np.int32), ones),)))) < 2020


def test_the_index_and_the_manifest_say_what_the_records_are(tmp_path):
    records = make(30, n_sequences=2)
    shards = write(tmp_path / "pairs", records)
    assert shards.lengths.dtype == np.int32
    assert shards.lengths.tolist() == [
        [len(sequence.tokens) for sequence in record.sequences] for record in records
    ]
    assert shards.manifest["documents"] == 30 and shards.manifest["tokens"] == shards.lengths.sum()
    assert (shards.manifest["source"], shards.manifest["bytes"], shards.manifest["lineage"]) == (
        "code",
        1234,
        {"tokenizer": "abc"},
    )
    assert "array_record" in shards.manifest["tools"]


def test_the_same_records_give_the_same_files(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, make(30))
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 8
    assert all(
        (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        for file in files
    )


def test_the_content_hash_depends_on_records_and_their_order_alone(tmp_path):
    records = make(30)
    first = write(tmp_path / "a", records).manifest["content_hash"]
    assert write(tmp_path / "b" / "c", records, shard_records=100).manifest["content_hash"] == first
    assert write(tmp_path / "d", records[::-1]).manifest["content_hash"] != first
    assert write(tmp_path / "e", records[:-1]).manifest["content_hash"] != first


def test_no_records_make_an_empty_folder_of_shards(tmp_path):
    shards = write(tmp_path / "chat", [])
    shards.verify()
    assert len(shards) == 0 and shards.manifest["tokens"] == 0 and shards.__getitems__([]) == []


def _ids(shards: Shards) -> list[str]:
    return [record.id for record in shards.__getitems__(range(len(shards)))]


def _fork_reads_the_same(shards: Shards) -> bool:
    expected = _ids(shards)  # files are open from here on
    child = os.fork()
    if not child:
        os._exit(0 if _ids(shards) == expected else 1)
    return os.waitpid(child, 0)[1] == 0


def test_shards_are_shared_by_threads_and_survive_pickling_and_fork(tmp_path):
    shards = write(tmp_path / "code", make(200))
    expected = _ids(shards)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: shards[i].id, list(range(200)) * 5)) == expected * 5
    assert _ids(pickle.loads(pickle.dumps(shards))) == expected
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_ids, (shards,)) == expected
        assert pool.apply(_fork_reads_the_same, (shards,))


@pytest.mark.parametrize("index", [-1, 30])
def test_an_index_outside_is_refused(index, tmp_path):
    with pytest.raises(IndexError, match="which has 30"):
        write(tmp_path / "code", make(30))[index]
