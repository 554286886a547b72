"""Curves as SVG: what is thinned keeps its sums, scales hold every curve, a hole stays a hole."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.reporting.charts import (
    COLOURS,
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    Axis,
    Curve,
    Frame,
    _upwards,
    lines,
    stacked,
    thinned,
    tick_text,
    value_text,
)
from launch.reporting.curves import PLACES, charts, place_of, time_split, unit_of
from launch.reporting.record import Column
from tests.launch.test_report import Page


def curve(y: list[float]) -> Curve:
    """Points at 1, 2, …, as they are."""
    return thinned(np.arange(1, len(y) + 1), np.array(y, float))


def drawn(y: list[float], frame: Frame) -> str:
    """A chart of one curve."""
    return lines({"<a>": curve(y)}, frame, COLOURS[:1])


def points(svg: str) -> list[tuple[float, float]]:
    """All points of all lines."""
    paths = re.findall(r'<g fill="none"[^>]*>.*?<path d="([^"]*)"', svg)
    return [
        tuple(map(float, pair.split())) for path in paths for pair in re.split("[ML]", path) if pair
    ]


def test_thinning_keeps_short_curves_and_means_of_long_ones():
    steps = np.arange(1, 1001)
    assert thinned(steps[:50], steps[:50] + 0.0, limit=100).y.tolist() == list(range(1, 51))
    thin = thinned(steps, steps + 0.0, limit=100)
    assert (thin.x[0], thin.y[0], thin.low[0], thin.high[0], len(thin.x)) == (10, 5.5, 1, 10, 100)
    assert thin.y.mean() == pytest.approx(500.5)


def test_what_is_no_number_is_left_out_of_a_mean_and_leaves_a_gap():
    thin = thinned(np.arange(6), np.array([1, math.nan, math.inf, 3, math.nan, math.nan]), limit=3)
    assert thin.y.tolist()[:2] == [1, 3] and math.isnan(thin.y[2])
    svg = drawn([1.0, 2.0, math.nan, 4.0, 5.0], Frame())
    assert re.search(r'd="M[^M]*M[^M]*"', svg) and "nan" not in re.sub(
        "<title>.*?</title>", "", svg
    )


@given(
    st.lists(st.floats(-1e30, 1e30) | st.just(math.nan), min_size=1, max_size=40),
    st.booleans(),
    st.booleans(),
)
def test_every_point_is_inside_the_frame_and_the_chart_is_well_formed(values, zero, log):
    svg = drawn(values, Frame(zero=zero, log=log))
    Page(svg)
    assert all(
        LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1 and -0.1 <= y <= HEIGHT + 0.1 for x, y in points(svg)
    )


def test_a_steep_beginning_is_above_the_frame():
    y = [1000.0 / i for i in range(1, 201)]
    assert (
        min(y for _, y in points(drawn(y, Frame(crop=True))))
        < 0
        <= min(y for _, y in points(drawn(y, Frame())))
    )


def test_a_wide_range_has_a_logarithmic_scale():
    svg = drawn([0.01, 1.0, 10_000.0], Frame(log=True))
    assert set(re.findall(r'text-anchor="end">([^<]+)</text>', svg)) >= {"0.01", "1", "100", "10k"}


def texts_of(svg: str) -> list[str]:
    return re.findall("<text[^>]*>([^<]*)</text>", svg)


def test_scales_say_what_they_measure_and_end_where_the_quantity_does():
    shares = texts_of(drawn([0.2, 0.6, 1.0], Frame(unit="share", most=1.0)))
    assert {"share", "step"} <= set(shares) and "1.05" not in shares
    assert Axis(0.16, 1.0) == _upwards(np.array([0.2, 1.0]), Frame(most=1.0))._replace(low=0.16)
    assert _upwards(np.array([0.01, 1.0]), Frame()).low == 0, "no margin below what cannot be"
    assert _upwards(np.array([0.5, 1.2]), Frame(most=1.0)).high > 1.2, "a finding stays inside"
    wide = texts_of(drawn([0.01, 1.0, 10_000.0], Frame(log=True, unit="seconds")))
    assert "seconds, log scale" in wide and "log scale" not in str(shares)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("loss/source/my/web", "nats"),
        ("eval/pairs/dpo_loss", "nats"),
        ("eval/macro/bits_per_byte", "bits a byte"),
        ("eval/chat/accuracy", "share"),
        ("throughput/tokens_per_s", "tokens/s"),
        ("time/step_s", "seconds"),
        ("memory/device_bytes", "GiB"),
        ("my/own", ""),
    ],
)
def test_a_metric_has_its_unit(name, unit):
    assert unit_of(name)[0] == unit


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_within_the_ends(low, width):
    ticks = Axis(low, low + width).ticks(4)
    assert 2 <= len(ticks) <= 8 and all(
        low - 1e-6 * width <= tick <= low + width * (1 + 1e-6) for tick in ticks
    )


def test_areas_on_top_of_each_other_end_at_their_sum():
    svg = stacked(
        np.array([1, 2, 3]),
        {"compute": np.array([1.0, 2, 1]), "wait": np.array([1.0, 0, 1])},
        Frame(unit="seconds"),
    )
    assert len(re.findall('fill-opacity="0.8"', svg)) == 2 and "compute 2, wait 0" in Page(svg).text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (2.5e-4, "2.5e-4"), (0.025, "0.025"), (1500.0, "1.5k"), (2e9, "2G")],
)
def test_a_scale_is_short(value, text):
    assert tick_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (3.0, "3"),
        (1234567.8, "1,234,568"),
        (2241.3, "2,241"),
        (0.12345, "0.1235"),
        (1.27, "1.270"),
        (math.nan, "nan"),
    ],
)
def test_a_number_has_four_digits(value, text):
    assert value_text(value) == text


@pytest.mark.parametrize(
    ("name", "chart", "of_curve"),
    [
        ("loss/train", "loss/train", "all"),
        ("loss/source/my/web", "loss/train", "my/web"),
        ("eval/pairs/rewards/margins", "eval: rewards/margins", "pairs"),
        ("norms/gradient/blocks/03/attention", "norms/gradient: blocks/attention", "layer 03"),
        ("norms/update/embed", "norms/update: the rest", "embed"),
        ("rewards/margins", "rewards/margins", ""),
    ],
)
def test_a_metric_has_one_place(name, chart, of_curve):
    assert place_of(name)[1:] == (chart, of_curve)


def test_charts_tell_the_newest_value_and_leave_out_what_was_always_zero():
    steps = np.arange(1, 1001)
    columns = {name: Column(steps, steps * 1.0) for name in ("loss/train", "loss/source/web")} | {
        "guard/spikes": Column(steps, steps * 0.0)
    }
    (found,) = charts(columns, "Learning")
    assert "all 1,000" in Page(found).text and "web 1,000" in Page(found).text


def test_many_layers_share_one_colour_in_shades():
    columns = {
        f"norms/gradient/blocks/{i:02}/mlp": Column(np.arange(1, 9), np.ones(8) + i)
        for i in range(40)
    }
    (found,) = charts(columns, "Norms of the layers")
    assert (
        len(set(re.findall(r'stroke="(color-mix[^"]*)"', found))) == 40
        and "layer 39 40" in Page(found).text
    )


def test_the_split_of_the_time_spreads_a_save_over_its_stretch_and_loses_nothing():
    steps = np.arange(1, 1201)
    saves = Column(np.array([600, 1200]), np.array([6.0, 6.0]))
    columns = {"time/compute_s": Column(steps, steps * 0 + 0.5), "time/checkpoint_s": saves}
    assert "compute 0.5" in time_split(columns) and "checkpoint 0.01" in time_split(
        columns
    )  # 12 s over 1,200 steps
    assert time_split({"time/step_s": Column(steps, steps * 1.0)}) == ""


def test_the_last_place_takes_any_metric():
    assert PLACES[-1].pattern == "(.+)"
