"""Laws of packing: every position once, no row too full, nothing left to chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.rows.pack import (
    BestFit,
    ConcatenateAndSplit,
    OnePerRow,
    Plan,
    best_fit,
    cut_documents,
    whole_documents,
)

documents = st.lists(st.integers(0, 40), max_size=30).map(
    lambda lengths: np.array(lengths, np.int64)
)


def positions(pieces: np.ndarray) -> list[tuple[int, int]]:
    return [
        (document, position)
        for document, start, n in pieces.tolist()
        for position in range(start, start + n)
    ]


@given(lengths=documents, capacity=st.integers(1, 17))
def test_pieces_cover_every_position_once_and_only_the_last_of_a_document_is_short(
    lengths, capacity
):
    pieces = cut_documents(lengths, capacity)
    assert positions(pieces) == [
        (document, position) for document, n in enumerate(lengths.tolist()) for position in range(n)
    ]
    last = np.flatnonzero(np.diff(pieces[:, 0], append=-1))
    assert (np.delete(pieces[:, 2], last) == capacity).all() and (pieces[:, 2] > 0).all()


@given(lengths=documents, capacity=st.integers(1, 17), max_pieces=st.integers(1, 5))
def test_a_plan_holds_every_piece_once_and_no_row_has_too_many_positions_or_pieces(
    lengths, capacity, max_pieces
):
    pieces = cut_documents(lengths, capacity)
    plan = best_fit(pieces, capacity, max_pieces)
    assert sorted(map(tuple, plan.pieces.tolist())) == sorted(map(tuple, pieces.tolist()))
    rows = [plan.row(i) for i in range(len(plan))]
    assert sum(map(len, rows)) == len(pieces)
    assert all(1 <= len(row) <= max_pieces and row[:, 2].sum() <= capacity for row in rows)


@given(lengths=documents, capacity=st.integers(1, 17), max_pieces=st.integers(1, 5))
def test_a_plan_is_best_fit_decreasing(lengths, capacity, max_pieces):
    """Against the definition: the longest piece first, into the fullest row that takes it, else into a new
    one.
    """
    pieces = cut_documents(lengths, capacity)
    used, counts = [], []
    for n in sorted(pieces[:, 2].tolist(), reverse=True):
        fitting = [
            i for i in range(len(used)) if used[i] + n <= capacity and counts[i] < max_pieces
        ]
        if not fitting:
            used, counts, fitting = [*used, 0], [*counts, 0], [len(used)]
        best = max(fitting, key=lambda i: used[i])
        used[best], counts[best] = used[best] + n, counts[best] + 1
    plan = best_fit(pieces, capacity, max_pieces)
    if (
        max_pieces >= capacity
    ):  # else rows that are equally full may differ in pieces, and the definition does not say which is taken
        assert sorted(plan.row(i)[:, 2].sum() for i in range(len(plan))) == sorted(used)
    assert len(plan) >= -(-pieces[:, 2].sum() // capacity)


@given(lengths=documents, capacity=st.integers(1, 17))
def test_equal_lengths_give_equal_plans(lengths, capacity):
    one, other = (best_fit(cut_documents(lengths.copy(), capacity), capacity, 3) for _ in range(2))
    assert (
        one.pieces.tolist() == other.pieces.tolist()
        and one.offsets.tolist() == other.offsets.tolist()
    )


@pytest.mark.parametrize(("median", "sigma"), [(300, 1.0), (60, 1.5), (1000, 0.8)])
def test_rows_of_log_normal_documents_are_99_percent_full(median, sigma):
    lengths = (
        np.random.default_rng(0).lognormal(np.log(median), sigma, 5000).astype(np.int64).clip(1)
    )
    plan = best_fit(cut_documents(lengths, 512), 512, 512)
    assert lengths.sum() / (len(plan) * 512) >= 0.99


def test_no_documents_make_no_rows():
    assert (
        len(best_fit(cut_documents(np.zeros(3, np.int64), 8), 8, 8))
        == len(best_fit(cut_documents(np.zeros(0, np.int64), 8), 8, 8))
        == 0
    )


def test_a_row_of_a_plan_is_its_pieces():
    plan = Plan(np.array([[0, 0, 5], [2, 0, 3], [1, 0, 8]]), np.array([0, 2, 3]))
    assert [plan.row(i).tolist() for i in range(2)] == [[[0, 0, 5], [2, 0, 3]], [[1, 0, 8]]]


@given(lengths=documents, capacity=st.integers(2, 17), data=st.data())
def test_windows_of_a_long_document_reach_back_by_the_overlap_and_have_every_position_as_a_target_once(
    lengths, capacity, data
):
    overlap = data.draw(st.integers(0, capacity - 1))
    pieces = cut_documents(lengths, capacity, overlap)
    context = np.where(pieces[:, 1] > 0, overlap, 0)
    targets = np.stack([pieces[:, 0], pieces[:, 1] + context, pieces[:, 2] - context], 1)
    assert (targets[:, 2] > 0).all() and (pieces[:, 2] <= capacity).all()
    assert positions(targets) == [
        (document, position) for document, n in enumerate(lengths.tolist()) for position in range(n)
    ]


@given(lengths=documents, capacity=st.integers(1, 17))
def test_concatenated_rows_are_the_stream_of_all_documents_and_full(lengths, capacity):
    plan = ConcatenateAndSplit().plan(lengths, capacity)
    assert positions(plan.pieces) == [
        (document, position) for document, n in enumerate(lengths.tolist()) for position in range(n)
    ]
    sizes = [plan.row(i)[:, 2].sum() for i in range(len(plan))]
    full, rest = divmod(int(lengths.sum()), capacity)
    assert sizes == [capacity] * full + [rest] * (rest > 0)


@given(lengths=documents, capacity=st.integers(1, 17))
def test_one_a_row_has_one_piece_in_every_row(lengths, capacity):
    plan = OnePerRow().plan(lengths, capacity)
    assert (
        np.diff(plan.offsets).tolist() == [1] * len(plan)
        and plan.pieces.tolist() == cut_documents(lengths, capacity).tolist()
    )


def test_whole_pieces_are_the_documents_that_fit():
    assert whole_documents(np.array([3, 0, 9, 4]), 4).tolist() == [[0, 0, 3], [3, 0, 4]]


def test_documents_below_the_row_length_are_never_cut():
    lengths = np.random.default_rng(0).integers(1, 1000, 3000)
    plan = BestFit().plan(lengths, 256)
    whole_ones = np.flatnonzero(lengths <= 256)
    rows = plan.pieces[np.isin(plan.pieces[:, 0], whole_ones)]
    assert sorted(rows.tolist()) == [[i, 0, lengths[i]] for i in whole_ones]
