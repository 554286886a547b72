"""Which rows a step reads."""

from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.rows.position import after, rows_of, united
from trainer.batches.position import batch_size_at, rows_until

numbers = st.integers(0, 40)
windows = st.lists(
    st.tuples(numbers, st.integers(0, 9)).map(lambda w: [w[0], w[0] + w[1]]), max_size=5
)
ramps = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 5)), max_size=3)


@given(numbers, st.integers(0, 20), windows)
def test_rows_are_the_next_ones_that_no_window_holds(first, n, skipped):
    kept = [
        row for row in range(first, 200) if not any(start <= row < stop for start, stop in skipped)
    ]
    assert rows_of(first, n, skipped) == kept[:n]
    assert rows_of(first, 3, skipped, offset=n) == kept[n : n + 3]
    assert after(first, n, skipped) == (kept[n - 1] + 1 if n else first)


@given(windows)
def test_united_windows_hold_the_same_rows_and_do_not_touch(skipped):
    found = united(skipped)
    assert {row for start, stop in found for row in range(start, stop)} == {
        row for start, stop in skipped for row in range(start, stop)
    }
    assert all(left[1] < right[0] for left, right in zip(found, found[1:], strict=False))


@given(st.integers(0, 30), st.integers(1, 9), ramps)
def test_rows_until_a_step_are_the_sum_of_the_steps_sizes(steps, batch_size, ramp):
    assert rows_until(steps, batch_size, ramp) == sum(
        batch_size_at(step, batch_size, ramp) for step in range(1, steps + 1)
    )
