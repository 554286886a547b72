"""Laws of the mixture: exact shares in every block, any position at once, and nothing behind the past is
moved by the future.
"""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.rows import mix
from data_pipeline.rows.mix import BLOCK, Mixture

weights = st.lists(st.floats(0.01, 100), min_size=1, max_size=6)
NAMES = [f"s{i}" for i in range(9)]


def mixture(
    *stages: tuple[int, list[float]] | list[float],
    caps: list[int | None] | None = None,
    seed: int = 0,
) -> Mixture:
    staged = [stage if isinstance(stage, tuple) else (0, stage) for stage in stages]
    n = len(staged[0][1])
    return Mixture(staged, caps or [None] * n, NAMES[:n], seed)


def streams(made: Mixture, first: int, stop: int) -> list[int]:
    return [stream for stream, _ in made.places(range(first, stop))]


@pytest.fixture
def small_blocks(monkeypatch) -> int:
    monkeypatch.setattr(mix, "BLOCK", 100)
    return 100


@settings(max_examples=15)
@given(weights=weights, seed=st.integers(0, 2**64), block=st.integers(0, 2**40))
def test_every_block_has_the_same_exact_counts_and_shares_within_one_row_of_the_weights(
    weights, seed, block
):
    made = mixture(weights, seed=seed)
    (leg,) = made.legs
    assert (
        made.cursors((block + 1) * BLOCK) - made.cursors(block * BLOCK)
    ).tolist() == leg.counts.tolist()
    assert (
        np.abs(leg.counts / BLOCK - np.array(weights) / sum(weights)).max() < 1 / BLOCK + 1e-9
        and leg.counts.sum() == BLOCK
    )


@settings(max_examples=20)
@given(weights=weights, seed=st.integers(0, 2**32))
def test_each_stream_is_counted_without_a_gap_in_order_and_can_be_found_again(weights, seed):
    made, seen = mixture(weights, seed=seed), Counter()
    for index in (*range(300), *range(BLOCK - 3, BLOCK + 300)):
        stream, before = made[index]
        if index < 300:
            assert before == seen[stream]
            seen[stream] += 1
        assert made.row_of(stream, before) == index
        assert made.cursors(index)[stream] == before


@settings(max_examples=20)
@given(weights=weights, first=st.integers(0, 3 * BLOCK), n=st.integers(1, 2000))
def test_every_stretch_of_rows_has_the_shares_of_the_whole(weights, first, n):
    made = mixture(weights)
    found = made.cursors(first + n) - made.cursors(first)
    assert np.abs(found - n * np.array(weights) / sum(weights)).max() <= 2 + len(weights)


def test_random_access_equals_the_sequence(small_blocks):
    sequence = mixture([3.0, 1.0, 1.0], seed=7).places(range(1200))
    made = mixture([3.0, 1.0, 1.0], seed=7)
    for i in np.random.default_rng(0).integers(0, len(sequence), 300).tolist():
        assert made[i] == sequence[i]


@pytest.mark.parametrize("first", [0, BLOCK, 5 * BLOCK])
def test_another_seed_gives_another_order_and_so_does_another_block(first):
    one, other = mixture([1.0, 1.0]), mixture([1.0, 1.0], seed=1)
    assert streams(one, first, first + 1000) == streams(mixture([1.0, 1.0]), first, first + 1000)
    assert streams(one, first, first + 1000) != streams(other, first, first + 1000)
    assert streams(one, first, first + 1000) != streams(one, first + BLOCK, first + BLOCK + 1000)


def test_weights_are_relative():
    one, other = mixture([0.2, 0.3]), mixture([200.0, 300.0])
    assert one.places(range(50)) == other.places(range(50))


def test_a_share_too_small_to_keep_is_refused_by_name():
    with pytest.raises(
        ValueError,
        match=r"s1 has a share of 1e-06 of the rows, less than 1/65536; raise its weight or leave it out",
    ):
        mixture([1.0, 1e-6])


STAGES = [(0, [3.0, 1.0, 0.0]), (130, [1.0, 1.0, 2.0]), (390, [0.0, 1.0, 5.0])]


@pytest.mark.parametrize("n_stages", [1, 2])
def test_a_later_stage_moves_no_earlier_row_and_no_cursor(n_stages, small_blocks):
    known, more = mixture(*STAGES[:n_stages]), mixture(*STAGES[: n_stages + 1])
    start = STAGES[n_stages][0]
    assert known.places(range(start)) == more.places(range(start))
    assert known.cursors(start).tolist() == more.cursors(start).tolist()
    seen = Counter(streams(more, 0, start))
    for stream, before in more.places(range(start, start + 200)):
        assert before == seen[stream]
        seen[stream] += 1


def test_a_stream_added_in_the_middle_of_the_list_moves_nothing(small_blocks):
    known = mixture([3.0, 1.0])
    more = Mixture(
        [(0, [3.0, 0.0, 1.0]), (130, [3.0, 2.0, 1.0])], [None] * 3, ["s0", "new", "s1"], 0
    )
    renamed = {0: 0, 2: 1}
    assert [(renamed[s], n) for s, n in more.places(range(130))] == known.places(range(130))
    assert (
        more.cursors(130)[[0, 2]].tolist() == known.cursors(130).tolist()
        and more.cursors(130)[1] == 0
    )


def test_a_stage_has_its_shares_from_its_first_row_on(small_blocks):
    made = mixture(*STAGES)
    assert Counter(streams(made, 130, 230)) == {0: 25, 1: 25, 2: 50}
    assert set(streams(made, 390, 600)) == {1, 2}


@settings(max_examples=30)
@given(
    caps=st.lists(st.none() | st.integers(0, 400), min_size=3, max_size=3),
    seed=st.integers(0, 9),
    later=st.integers(1, 700),
)
def test_a_cap_is_kept_to_the_row_and_the_others_take_its_share(caps, seed, later):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mix, "BLOCK", 100)
        made = mixture([5.0, 3.0, 2.0], (later, [1.0, 4.0, 2.0]), caps=caps, seed=seed)
        n = made.n_rows if made.n_rows is not None else 2000
        assert (made.n_rows is None) == (None in caps)
        seen = Counter()
        for index, (stream, before) in enumerate(made.places(range(n))):
            assert before == seen[stream] and made.row_of(stream, before) == index
            seen[stream] += 1
        for stream, cap in enumerate(caps):
            assert cap is None or seen[stream] <= cap
            assert n != made.n_rows or seen[stream] == cap
            assert cap is None or made.row_of(stream, cap) is None
        if made.n_rows is not None:
            with pytest.raises(IndexError, match="all sources have reached their max_epochs"):
                made[n]


def test_until_a_cap_is_reached_nothing_is_different(small_blocks):
    free, capped = mixture([5.0, 3.0]), mixture([5.0, 3.0], caps=[None, 60])
    end = capped.legs[1].first
    assert free.places(range(end)) == capped.places(range(end)) and free[end - 1] == (1, 59)
    assert set(streams(capped, end, end + 50)) == {0}
