"""Laws of the mixture: exact shares in every block, and any position at once."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.mix import BLOCK, Mixture

weights = st.lists(st.floats(0.001, 1000), min_size=1, max_size=6).map(lambda values: {f"s{i}": value for i, value in enumerate(values)})


@settings(deadline=None, max_examples=50)
@given(weights=weights, seed=st.integers(0, 2**64), block=st.integers(0, 2**40))
def test_every_block_has_the_same_exact_counts_and_shares_within_one_row_of_the_weights(weights, seed, block):
    mixture = Mixture(weights, seed)
    counts = Counter(mixture[block * BLOCK + i][0] for i in range(BLOCK))
    assert [counts[s] for s in range(len(weights))] == mixture.counts.tolist() and sum(counts.values()) == BLOCK
    shares = np.array(list(weights.values())) / sum(weights.values())
    assert np.abs(mixture.counts / BLOCK - shares).max() < 1 / BLOCK + 1e-9


@settings(deadline=None, max_examples=20)
@given(weights=weights, seed=st.integers(0, 2**32))
def test_each_source_is_counted_without_a_gap_in_order(weights, seed):
    mixture, seen = Mixture(weights, seed), Counter()
    for index in range(2 * BLOCK + 7):
        source, before = mixture[index]
        assert before == seen[source]
        seen[source] += 1


def test_random_access_equals_the_sequence():
    sequence = [Mixture({"a": 3.0, "b": 1.0, "c": 1.0}, 7)[i] for i in range(12 * BLOCK)]
    mixture = Mixture({"a": 3.0, "b": 1.0, "c": 1.0}, 7)
    for i in np.random.default_rng(0).integers(0, len(sequence), 300).tolist():
        assert mixture[i] == sequence[i]


@pytest.mark.parametrize("first", [0, BLOCK, 5 * BLOCK])
def test_another_seed_gives_another_order_and_so_does_another_block(first):
    def order(seed: int, first: int) -> list[int]:
        mixture = Mixture({"a": 1.0, "b": 1.0}, seed)
        return [mixture[first + i][0] for i in range(BLOCK)]

    assert order(0, first) == order(0, first)
    assert order(0, first) != order(1, first) and order(0, first) != order(0, first + BLOCK)


def test_weights_are_relative():
    one, other = Mixture({"a": 0.2, "b": 0.3}, 0), Mixture({"a": 200.0, "b": 300.0}, 0)
    assert [one[i] for i in range(50)] == [other[i] for i in range(50)]
    assert one.counts.tolist() == [400, 600]


def test_a_source_begins_early_and_is_spread_over_the_block():
    mixture = Mixture({"large": 0.9, "small": 0.1}, 0)
    at = [i for i in range(BLOCK) if mixture[i][0] == 1]
    assert at[0] < 100 and at[-1] > BLOCK - 100 and max(np.diff(at)) < 100
