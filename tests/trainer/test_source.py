"""Laws of batch sources: the global batch is the rows in order on every mesh, and a number says where the source stands."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipeline.batch import TokenBatch
from data_pipeline.loader import PackedPairs, PackedRows, PackedShards, RowSequence
from model.sharding import letters_of, named
from tests.examples import MESHES, ONE_DEVICE, random_documents, under, write_documents, write_pairs
from trainer.source import BatchSource, Layout, ShardSource, passes

L = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    write_documents(root / "web", random_documents(rng, rng.integers(2, 20, 31)))
    write_documents(root / "code", random_documents(rng, rng.integers(2, 20, 13)))
    pairs = [random_documents(rng, rng.integers(2, 8, 2)) for _ in range(9)]
    write_pairs(root / "pairs", [(chosen, rejected, 1) for chosen, rejected in pairs])
    return root


def settings(batch_size: int = 8) -> PackedShards:
    return PackedShards(folder=".", weights={"web": 3.0, "code": 1.0}, seq_len=L, batch_size=batch_size)


def layout(batch_size: int = 8, mesh: dict = ONE_DEVICE) -> Layout:
    return Layout.of(TokenBatch, settings(batch_size).fields(), under(mesh))


def rows_of(folder: Path, seed: int = 0) -> RowSequence:
    return RowSequence(settings().sources(folder), settings().weights, seed)


def batches(source: ShardSource, n: int) -> list[TokenBatch]:
    return [jax.device_get(source.next({})) for _ in range(n)]


def assert_equal(found: list[TokenBatch], expected: list[TokenBatch]) -> None:
    for a, b in zip(found, expected, strict=True):
        for name, x, y in zip(TokenBatch._fields, a, b, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y, err_msg=name)


@pytest.mark.parametrize("mesh", [ONE_DEVICE, *MESHES], ids=str)
def test_a_batch_is_the_next_rows_of_the_sequence_in_order_and_lies_by_its_field_names(mesh, folder):
    rows, source = rows_of(folder), ShardSource(rows_of(folder), layout(mesh=mesh))
    assert isinstance(source, BatchSource)
    for first in (0, 8):
        batch = source.next({})
        for name, x in zip(TokenBatch._fields, batch, strict=True):
            assert x.sharding.is_equivalent_to(named(under(mesh), letters_of(name)), x.ndim)
            np.testing.assert_array_equal(x, [rows[first + b][name.replace("_B", "_")] for b in range(8)], err_msg=name)


def test_the_position_is_json_and_a_new_source_goes_on_from_it(folder):
    source = ShardSource(rows_of(folder), layout())
    batches(source, 3)
    state = json.loads(json.dumps(source.get_state()))
    assert state["rows"] == 24
    expected = batches(source, 2)
    other = ShardSource(rows_of(folder), layout())
    batches(other, 1)
    other.set_state(state)
    assert_equal(batches(other, 2), expected)
    assert source.get_state() == other.get_state() != state


@pytest.mark.parametrize("mesh", [ONE_DEVICE, MESHES[0]], ids=str)
def test_another_batch_size_goes_on_at_the_row_where_the_first_stopped(mesh, folder):
    source, rows = ShardSource(rows_of(folder), layout(8, mesh)), rows_of(folder)
    batches(source, 3)
    larger = ShardSource(rows_of(folder), layout(16, mesh))
    larger.set_state(source.get_state())
    (batch,) = batches(larger, 1)
    np.testing.assert_array_equal(batch.tokens_BL, [rows[24 + b]["tokens_L"] for b in range(16)])
    assert larger.get_state()["rows"] == 40


def test_a_position_of_other_data_or_of_another_seed_is_refused_with_a_remedy(folder):
    source, other = ShardSource(rows_of(folder), layout()), ShardSource(rows_of(folder, seed=1), layout())
    with pytest.raises(ValueError, match=r"data fingerprint \w{16} differs from the checkpoint's \w{16}; restore the data"):
        other.set_state(source.get_state())


def test_rows_that_do_not_divide_over_the_mesh_are_refused_with_the_next_multiple():
    with pytest.raises(ValueError, match=r"data.batch_size=12 does not divide over data · fsdp = 8 devices; choose a multiple of 8"):
        layout(12, MESHES[0])
    with pytest.raises(ValueError, match=r"data.batch_size=8 .* data · fsdp = 4 devices in 4 micro-batches; choose a multiple of 16"):
        Layout.of(TokenBatch, settings(8).fields(), under(MESHES[1]), micro_batches=4)
    assert layout(12, MESHES[1]).offsets == tuple(range(12))


@pytest.mark.parametrize("limit", [None, 11, 3])
def test_a_pass_has_every_row_once_and_fills_the_last_batch_with_rows_of_weight_0(limit, folder):
    rows = settings().sources(folder)["web"]
    assert len(rows) % 8
    n, seen = min(len(rows), limit or len(rows)), []
    for numbers, batch in passes(rows, layout(mesh=MESHES[1]), limit):
        batch = jax.device_get(batch)
        for i, number in enumerate(numbers):
            np.testing.assert_array_equal(batch.tokens_BL[i], rows[number]["tokens_L"])
        assert all(not x[len(numbers) :].any() for x in batch)
        seen += numbers
    assert seen == list(range(n))


def test_preference_rows_are_placed_with_their_reference_columns(folder):
    data = PackedPairs(folder=".", weights={"pairs": 1.0}, seq_len=16, batch_size=4, pairs_per_row=3)
    rows = data.sources(folder)["pairs"]
    columns = {name: np.arange(len(rows) * 3, dtype=np.float32).reshape(-1, 3) * sign for name, sign in (("chosen", 1), ("rejected", -1))}
    rows.columns.update({f"reference_{name}_P": x for name, x in columns.items()})
    for numbers, batch in passes(rows, Layout.of(data.batch_type, data.fields(), under(MESHES[1]))):
        batch = jax.device_get(batch)
        np.testing.assert_array_equal(batch.reference_chosen_BP[: len(numbers)], columns["chosen"][numbers.start : numbers.stop])
        np.testing.assert_array_equal(batch.reference_rejected_BP[: len(numbers)], columns["rejected"][numbers.start : numbers.stop])
        assert batch.pair_weight_BP.shape == (4, 3)


def test_a_source_of_one_row_folder_is_endless(tmp_path):
    rows = PackedRows(write_documents(tmp_path / "one", [[1, 2, 3]]), seq_len=L)
    source = ShardSource(RowSequence({"one": rows}, {"one": 1.0}, 0), layout())
    assert {tuple(row) for batch in batches(source, 3) for row in batch.tokens_BL} == {(1, 2, 0, 0, 0, 0, 0)}
