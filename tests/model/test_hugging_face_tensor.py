"""One tensor said in letters: what is taken of theirs is ours, and what is put back is theirs."""

import numpy as np
import pytest

from model.hugging_face.tensor import (
    Tensor,
    own_letters,
    places,
    put,
    run_letters,
    take,
    their_shape,
)

SIZES = {"N": 3, "E": 2, "D": 8, "H": 4, "A": 6, "K": 2, "F": 10, "R": 5, "A2": 4, "V": 7}
ROWS = {
    "joined": Tensor("b.wq_NDHA", "m.{N}.q", "HA D"),
    "bias": Tensor("b.bq_NHA", "m.{N}.q", "HA"),
    "fused behind": Tensor("b.wk_NDHA", "m.{N}.c", "D *HA", part=(1, 3)),
    "fused in front": Tensor("b.wk_NDHA", "m.{N}.c", "HA D", part=(2, 3)),
    "interleaved": Tensor("b.wq_NDHA", "m.{N}.q", "HA D", interleaved=True),
    "interleaved at its end": Tensor("b.wq_NRHA", "m.{N}.q", "HA R", interleaved=4),
    "a part of a head": Tensor("b.wkv_NRHA2", "m.{N}.kv", "HA2 R", span=("A2", 6, 10)),
    "a part of rows": Tensor("b.wk_NDA", "m.{N}.kv", "A D", span=("A", 5, 11), interleaved=True),
    "expert": Tensor("b.w_NEDF", "m.{N}.e.{E}", "F D", first=1),
    "router": Tensor("b.router_NDE", "m.{N}.gate", "E D"),
}
RANGES = [
    {},
    {"D": (2, 6), "H": (1, 3), "R": (1, 4)},
    {"D": (0, 4), "H": (0, 2), "F": (0, 3)},
    {"H": (2, 3), "F": (4, 9)},
    {"A2": (1, 3), "D": (7, 8), "R": (0, 1), "E": (1, 2)},
]


def letters_within(row: Tensor) -> list[str]:
    return [letter for letter in own_letters(row) if letter not in run_letters(row)]


@pytest.mark.parametrize("ranges", RANGES)
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_part_taken_is_the_part_of_the_whole(row, ranges):
    theirs = np.random.default_rng(0).normal(size=their_shape(row, SIZES))
    whole = take(theirs, row, SIZES, {})
    assert whole.shape == tuple(SIZES[letter] for letter in letters_within(row))
    cut = tuple(slice(*ranges.get(letter, (0, SIZES[letter]))) for letter in letters_within(row))
    np.testing.assert_array_equal(take(theirs, row, SIZES, ranges), whole[cut])


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_what_is_put_is_what_was_taken_and_touches_nothing_else(row):
    theirs = np.random.default_rng(0).normal(size=their_shape(row, SIZES))
    written = np.full_like(theirs, np.nan)
    put(written, row, SIZES, take(theirs, row, SIZES, {}))
    kept = ~np.isnan(written)
    np.testing.assert_array_equal(written[kept], theirs[kept])
    assert kept.sum() == np.prod([SIZES[letter] for letter in letters_within(row)])


def test_joined_dimensions_are_split_by_their_letters():
    theirs = np.arange(4 * 6 * 8).reshape(24, 8)
    np.testing.assert_array_equal(
        take(theirs, ROWS["joined"], SIZES, {}), theirs.reshape(4, 6, 8).transpose(2, 0, 1)
    )


def test_pairs_that_are_neighbours_become_halves():
    row = Tensor("b.q_A", "q", "A", interleaved=True)
    np.testing.assert_array_equal(take(np.arange(6), row, SIZES, {}), [0, 2, 4, 1, 3, 5])
    row = Tensor("b.q_A", "q", "A", interleaved=4)
    np.testing.assert_array_equal(take(np.arange(6), row, SIZES, {}), [0, 1, 2, 4, 3, 5])


def test_names_run_over_layers_from_the_first_and_over_experts():
    assert list(places(ROWS["expert"], SIZES))[:3] == [
        ((0, 0), "m.1.e.0"),
        ((0, 1), "m.1.e.1"),
        ((1, 0), "m.2.e.0"),
    ]
    assert list(places(ROWS["router"], SIZES))[-1] == ((2,), "m.2.gate")


class Sliced:
    """Counts what is read."""

    def __init__(self, x: np.ndarray):
        self.x, self.n_read = x, 0

    def __getitem__(self, cuts: tuple[slice, ...]) -> np.ndarray:
        found = self.x[cuts]
        self.n_read += found.size
        return found


@pytest.mark.parametrize("name", ["joined", "fused behind", "fused in front", "expert"])
def test_no_more_is_read_than_a_device_needs(name):
    row = ROWS[name]
    ranges = {"D": (2, 4), "H": (1, 3), "F": (2, 5)}
    theirs = Sliced(np.zeros(their_shape(row, SIZES)))
    assert take(theirs, row, SIZES, ranges).size == theirs.n_read
