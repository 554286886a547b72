"""StarCoder's file rules against their formulas."""

import math

import pytest
from hypothesis import given

from data_pipeline.clean.code import CodeKind, CodeQuality
from tests.data_pipeline.texts import (
    LAW,
    TEXTS,
    assert_alone_as_in_a_batch,
    documents_of,
    is_alphanumeric,
    signals_of,
    verdict,
)

QUALITY, KIND = CodeQuality(sources=("web",)), CodeKind(sources=("web",))


def reference(text: str) -> dict[str, float]:
    lengths = [len(line) for line in text.removesuffix("\n").split("\n")]
    return {
        "longest_line_chars": max(lengths),
        "mean_line_chars": sum(lengths) / len(lengths),
        "alphanumeric_frac": sum(map(is_alphanumeric, text)) / max(1, len(text)),
    }


@LAW
@given(TEXTS)
def test_line_signals_are_those_of_the_plain_formula(pairs):
    _, signals = QUALITY.annotate(documents_of(pairs))
    for number, (text, _) in enumerate(pairs):
        assert {name: values[number] for name, values in signals.items()} == pytest.approx(
            reference(text), rel=1e-12
        )
    assert_alone_as_in_a_batch(QUALITY, documents_of(pairs))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def f(x):\n    return x + 1\n", None),
        ("x = '" + "a" * 1000 + "'\n" + "y = 1\n" * 99, "code_long_line"),
        (("x = '" + "a" * 120 + "'\n") * 9, "code_mean_line"),
        ("# ---------------------\n" * 9 + "x = 1\n", "code_alphanumeric"),
    ],
)
def test_code_is_dropped_for_lines_and_symbols_as_in_starcoder(text, reason):
    assert verdict(QUALITY, text)[1] == reason


@pytest.mark.parametrize(
    ("language", "text", "reason"),
    [
        ("python", '"""What it does."""\n\nx = """# no comment"""  # but this\n', None),
        ("python", "x = 1\ny = '# no comment'\n" * 9, "code_comments"),
        ("python", "# only\n# comments\n", "code_comments"),
        ("java", "int x = 1; // one\n/* two\n lines */ int y;\n", None),
        ("javascript", 'var url = "https://x.org/*";\n' * 9, "code_comments"),
        ("c", "int x;\n" * 9, None),
        ("php", '<?xml version="1.0"?>\n<a/>', "code_xml_header"),
        ("xml", '<?xml version="1.0"?>\n<a/>', None),
        (
            "html",
            "<p>"
            + "Text that a reader sees. " * 9
            + "</p><!-- x --><script>var x = '<p>';</script>",
            None,
        ),
        ("html", "<p>Few words</p>", "code_html_text"),
        (
            "html",
            "<p>" + "Seen. " * 30 + "</p><style>" + "p { } " * 300 + "</style>",
            "code_html_text",
        ),
        ("json", '{"a": 1}', "code_data_size"),
        ("yaml", "key: value\n" * 9, None),
        ("json", "[" + "1, " * 3_000 + "1]", "code_data_size"),
    ],
)
def test_files_are_dropped_by_the_rules_of_their_language(language, text, reason):
    assert verdict(KIND, text, language)[1] == reason


def test_comments_are_counted_in_characters():
    assert signals_of(KIND, "# ab\nx\n", "python")["comment_frac"] == 4 / 7
    assert signals_of(KIND, 'def f():\n    """Doc."""\n', "python")["comment_frac"] == 14 / 24
    assert math.isnan(signals_of(KIND, "# ab\n", "ruby")["comment_frac"])


@pytest.mark.parametrize(
    ("language", "unit", "signal", "value"),
    [
        ("java", "/*", "comment_frac", 1.0),
        ("javascript", "`", "comment_frac", 0.0),
        ("python", '"""', "comment_frac", 0.0),
        ("html", "<script>", "visible_chars", 0.0),
        ("html", "<!--", "visible_chars", 0.0),
    ],
)
def test_what_is_opened_and_never_closed_goes_on_to_the_end(language, unit, signal, value):
    assert (
        signals_of(KIND, f"{unit} " * 200_001, language)[signal] == value
    )  # in linear time: a quadratic scan would not end today
