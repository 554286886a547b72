"""The page of a corpus: every reason, in the order of the recipe, with examples, histograms, clusters and
the tokenizer.
"""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.reporting.data import data_section
from launch.reporting.histogram import WIDE, histogram
from launch.terminal.drop_table import cut_table, drop_table, in_one_order
from tests.launch.test_report import Page

RESULT = {
    "read": {"web": 1000, "code": 50},
    "dropped": {
        "code": {"too_short": 4, "near_duplicate": 2, "over_limit_mib": 9},
        "web": {
            "page_too_large": 1,
            "language": 25,
            "too_short": 3,
            "near_duplicate": 0,
            "pii_email_spans": 1234,
        },
    },
    "dropped_bytes": {"web": {"language": 5_000_000, "too_short": 200}},
    "kept": {
        source: {"documents": 900, "bytes": 4_912_345, "tokens": 1_512_345}
        for source in ("web", "code")
    },
    "held_out": {
        source: {"documents": 43, "bytes": 212_345, "tokens": 65_321} for source in ("web", "code")
    },
    "examples": {
        "language": ["a.html (0.21): Größe <b>&</b> Maß"],
        "too_short": ["b.html (3): one", "c.html (9): two"],
    },
    "histograms": [
        {
            "source": "web",
            "reason": "too_short",
            "signal": "n_words",
            "edges": [0, 10, 20, 30, 40],
            "counts": [1, 2, 8, 4],
            "least": 20.0,
        },
        {
            "source": "code",
            "reason": "code_line",
            "signal": "mean_line",
            "edges": [0, 1, 2],
            "counts": [5, 1],
            "most": 1.0,
            "beyond": 1,
        },
        {
            "source": "code",
            "reason": "code_html",
            "signal": "visible_frac",
            "edges": [0, 1, 2],
            "counts": [0, 0],
            "most": 1.0,
        },
    ],
    "clusters": {"near_duplicate": {"2": 40, "3": 7, "12": 3, "250": 1}},
    "fertility": {
        "web": {
            "bytes": 4_000_000,
            "words": 600_000,
            "tokens": 10**6,
            "bytes_per_token": 4.0,
            "tokens_per_word": 1.67,
        }
    },
}


@pytest.fixture(scope="module")
def html() -> str:
    return data_section("data", RESULT).replace("<wbr>", "")


def row_of(html: str, first: str) -> list[str]:
    """The other cells of the row that begins with `first`."""
    return re.findall(r">([^<]*)</td>", re.search(rf"<tr><td>{first}</td>(.*?)</tr>", html)[1])


def test_every_reason_has_documents_share_and_size(html):
    assert row_of(html, "language") == ["25", "2.5%", "5.00", "1,250,000"]
    # apart from the documents, with which it cannot be added up
    assert row_of(html[html.index("Cut out of documents of web") :], "pii_email_spans") == ["1,234"]
    assert row_of(html, "over_limit_mib") == ["9", "18.0%"]


def test_sources_stand_in_the_order_they_were_read(html):
    assert re.findall(r"<h3>Dropped of (\w+)", html) == ["web", "code"]


def test_text_of_the_corpus_is_escaped_and_tags_close(html):
    text = Page(html).text
    assert (
        "<b>&" not in html
        and "Größe <b>&</b> Maß" in text
        and "b.html (3): one\n\nc.html (9): two" in text
    )


def test_clusters_are_counted_by_size(html):
    assert row_of(html[html.index("Clusters") :], "near_duplicate") == [
        "51",
        "40",
        "7",
        "0",
        "3",
        "1",
        "250",
    ]


def test_a_signal_without_documents_has_no_histogram(html):
    assert re.findall(r"(\w+): (\d+) signals", html) == [("code", "1"), ("web", "1")]
    assert "mean_line" in html and "code_line: 1 beyond" in html and "visible_frac" not in html


def test_bars_beyond_a_limit_have_another_colour():
    svg = histogram([0, 10, 20, 30, 40], [1, 2, 8, 0], limits=[20.0], least=20.0, most=float("inf"))
    inside, beyond = re.findall(r'<path fill="var\(--line-\d\)" d="([^"]*)"', svg)
    assert (inside.count("M"), beyond.count("M")) == (1, 2)
    assert f'd="M{WIDE / 2:.1f} 0V' in svg
    assert re.findall(r">([\d.,]+)</text>", svg) == ["20", "0", "40"]


def test_a_value_that_a_limit_allows_is_no_bar_beyond_it():
    """Of a limit of 0 the first bar holds just what is allowed."""
    svg = histogram([0.0, 0.5, 1.0], [9, 0], limits=[0.0], least=float("-inf"), most=0.0)
    assert re.search(r'var\(--line-5\)" d=""', svg)


@given(st.lists(st.sets(st.integers(0, 9)), max_size=5))
def test_one_order_keeps_that_of_every_source(subsets):
    lists = [[f"rule {i}" for i in sorted(subset)] for subset in subsets]
    merged = in_one_order(lists)
    assert len(merged) == len(set(merged)) and set(merged) == {
        name for names in lists for name in names
    }
    if len(lists) <= 2:  # any two agree; of more, what none orders may come either way
        assert all([name for name in merged if name in names] == names for names in lists)


def test_the_table_of_drops_leaves_out_what_dropped_nothing():
    heads, rows = drop_table(RESULT)
    assert heads == ("reason", "web", "code")
    assert rows == [
        ("page_too_large", "1", ""),
        ("language", "25", ""),
        ("too_short", "3", "4"),
        ("near_duplicate", "", "2"),
        ("over_limit_mib", "", "9"),
    ]
    assert cut_table(RESULT) == (("reason", "web"), [("pii_email_spans", "1,234")])
