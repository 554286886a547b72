"""Laws of keyed randomness: an order without a list, the same wherever it is asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.rows.keyed import Permutation, key_from, uniform

keys = st.integers(0, 2**64 - 1)


@given(n=st.integers(1, 600), key=keys)
def test_a_permutation_has_every_number_once_and_its_inverse_undoes_it(n, key):
    order = Permutation(n, key)
    values = order(np.arange(n))
    assert sorted(values.tolist()) == list(range(n))
    assert order.inverse(values).tolist() == list(range(n))


@given(
    n=st.integers(2**32, 2**62),
    key=keys,
    positions=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5, unique=True),
)
def test_more_rows_than_32_bits_can_number_are_ordered_too(n, key, positions):
    order = Permutation(n, key)
    values = order(np.array(positions))
    assert len(set(values.tolist())) == len(positions) and 0 <= values.min() <= values.max() < n
    assert order.inverse(values).tolist() == positions


def test_a_number_that_is_not_in_the_order_is_refused():
    with pytest.raises(IndexError, match="9 is not in the order of 0 … 8"):
        Permutation(9, 1)(np.array([3, 9]))


@pytest.mark.parametrize("n", [8, 1000])
def test_each_position_holds_each_number_equally_often_over_the_keys(n):
    first = np.array(
        [Permutation(n, key_from("test", key))(np.array([0, n // 2])) for key in range(2000)]
    )
    counts = np.apply_along_axis(lambda values: np.bincount(values * 8 // n, minlength=8), 0, first)
    assert counts.min() > 190 and counts.max() < 310  # 250 ± 4 standard deviations


def test_neighbours_in_an_order_are_not_neighbours_in_the_plan():
    values = Permutation(10_000, 7)(np.arange(10_000))
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.04


def test_numbers_are_uniform_and_the_same_alone_or_together():
    numbers = uniform(key_from("a", 1), np.arange(10_000))
    assert 0 <= numbers.min() and numbers.max() < 1
    assert np.abs(np.histogram(numbers, 10)[0] - 1000).max() < 130
    assert uniform(key_from("a", 1), np.array([77]))[0] == numbers[77]
    assert (uniform(key_from("a", 2), np.arange(10_000)) != numbers).all()


def test_what_is_drawn_never_changes():
    """A resumed run of years ago must find its order again: these numbers are part of the format."""
    assert uniform(key_from("a", 1), np.arange(2)).tolist() == GOLDEN_UNIFORM
    assert Permutation(10, 3)(np.arange(10)).tolist() == GOLDEN_ORDER


GOLDEN_UNIFORM = [0.897908821046175, 0.6862871295819135]
GOLDEN_ORDER = [1, 8, 3, 6, 4, 9, 5, 0, 2, 7]
