"""Laws that every data component keeps; a new one needs an example here."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from pydantic import TypeAdapter

from data_pipeline.batch import fields_of
from data_pipeline.component import components_in, one_of
from data_pipeline.loader import PackedPairs, PackedShards, ShardData
from data_pipeline.rows.sequence import RowSequence
from model.sharding import letters_of
from tests.examples import MESHES, random_documents, under, write_documents, write_pairs
from trainer.batches.layout import Layout
from trainer.batches.shards import ShardSource
from trainer.problems import gives

EXAMPLES = {
    "PackedShards": PackedShards(
        folder="train", weights={"web": 2.0, "code": 1.0}, seq_len=10, batch_size=8
    ),
    "PackedPairs": PackedPairs(
        folder="train",
        weights={"pairs": 1.0, "more": 1.0},
        seq_len=18,
        batch_size=8,
        pairs_per_row=2,
    ),
}
EVERY = pytest.mark.parametrize("name", EXAMPLES)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("run") / "train", np.random.default_rng(0)
    for source in ("web", "code"):
        write_documents(folder / source, random_documents(rng, rng.integers(2, 25, 20)))
    for source in ("pairs", "more"):
        write_pairs(
            folder / source, [(*random_documents(rng, rng.integers(3, 9, 2)), 2) for _ in range(20)]
        )
    return folder.parent


def opened(name: str, root: Path, seed: int = 0) -> RowSequence:
    return EXAMPLES[name].sequence(EXAMPLES[name].sources(root), seed)


def no_policy():
    raise AssertionError("shards ask for no policy")


def source_of(name: str, root: Path, mesh: Any = None) -> ShardSource:
    data = EXAMPLES[name]
    return ShardSource(
        opened(name, root), Layout(data.batch_type, data.sizes(), mesh or under(MESHES[1]))
    )


def test_every_data_component_has_an_example():
    assert set(EXAMPLES) == set(components_in("data_pipeline.loader"))


@EVERY
def test_a_data_component_is_a_value_that_survives_being_written_down(name):
    adapter = TypeAdapter(one_of("data_pipeline.loader"))
    written = adapter.dump_python(EXAMPLES[name], mode="json")
    assert adapter.validate_python(written) == EXAMPLES[name]
    assert list(adapter.validate_python(written).weights) == list(EXAMPLES[name].weights)
    assert hash(adapter.validate_python(written)) == hash(EXAMPLES[name])


@EVERY
def test_every_letter_of_the_batch_type_has_a_size_and_a_field_ends_in_its_letters(name):
    data = EXAMPLES[name]
    assert isinstance(data, ShardData) and data.sizes()["B"] == data.batch_size
    assert data.sizes()["L"] == data.row_length
    for field, annotation in fields_of(data.batch_type).items():
        assert letters_of(field) == annotation.letters and annotation.letters[0] == "B"
        assert set(annotation.letters) <= data.sizes().keys()


@EVERY
def test_rows_are_what_the_annotations_of_the_batch_say(name, root):
    row, sizes = opened(name, root)[0], EXAMPLES[name].sizes()
    for field, (letters, dtype) in fields_of(EXAMPLES[name].batch_type).items():
        found = row[field.removesuffix(letters) + letters.replace("B", "")]
        assert (
            found.shape == tuple(sizes[letter] for letter in letters[1:]) and found.dtype == dtype
        ), field


@EVERY
def test_some_objective_reads_the_batches(name):
    objectives: list[Any] = list(components_in("trainer.objectives").values())
    assert any(gives(EXAMPLES[name].batch_type, objective) for objective in objectives)


@EVERY
def test_rows_keep_the_rules_of_segments_positions_and_targets(name, root):
    sequence = opened(name, root)
    for i in range(40):
        row = sequence[i]
        segments_L, positions_L, weight_L = row["segments_L"], row["positions_L"], row["weight_L"]
        starts_L = np.diff(segments_L, prepend=0) != 0
        assert (positions_L[starts_L] == 0).all() and (
            np.diff(positions_L)[~starts_L[1:] & (segments_L[1:] > 0)] == 1
        ).all()
        assert (weight_L[segments_L == 0] == 0).all() and weight_L.sum() > 0
        inside_L = ~starts_L[1:] & (segments_L[1:] > 0)
        np.testing.assert_array_equal(
            row["targets_L"][:-1][inside_L], row["tokens_L"][1:][inside_L]
        )


@EVERY
def test_batches_are_the_same_whatever_the_mesh(name, root):
    one, other = source_of(name, root, under({})), source_of(name, root, under(MESHES[-1]))
    for _ in range(2):
        batch = one.next(no_policy)
        for field, x, y in zip(batch._fields, batch, other.next(no_policy), strict=True):
            assert x.shape == fields_of(type(batch))[field].shape(EXAMPLES[name].sizes())
            np.testing.assert_array_equal(x, y, err_msg=field)


@EVERY
def test_a_source_goes_on_from_any_position(name, root):
    source, other = source_of(name, root), source_of(name, root)
    for _ in range(5):
        source.next(no_policy)
    other.set_state(source.get_state())
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.device_get(source.next(no_policy)),
        jax.device_get(other.next(no_policy)),
    )


@EVERY
def test_origins_of_a_row_name_documents_that_the_folder_holds(name, root):
    sequence = opened(name, root)
    for i in range(20):
        for origin in sequence.origins(i):
            record = sequence.sources[origin.source].shards[int(origin.document)]
            assert record.id == origin.document
            assert 0 <= origin.start < origin.stop <= sum(len(s.tokens) for s in record.sequences)


@EVERY
def test_a_folder_that_is_missing_is_named_with_a_remedy(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no token shards .* prepare the data first"):
        EXAMPLES[name].sources(tmp_path)
