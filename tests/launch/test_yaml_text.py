"""YAML is read as people mean it, and what is written is read back the same."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from launch.job.yaml import parse_yaml, read_yaml, to_yaml

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("3E4", 30000.0),
        ("1_000", 1000),
        ("010", 10),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("true", True),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("", None),
        ("~", None),
        ("'1e-3'", "1e-3"),
        ("[1, 2e0, a]", [1, 2.0, "a"]),
    ],
)
def test_a_scalar_is_what_it_looks_like(text, value):
    found = parse_yaml(text, "test")
    assert found == value and type(found) is type(value)


@given(TREES)
@example({":0": None})
def test_what_is_written_is_read_back_equal(tree):
    assert parse_yaml(to_yaml(tree), "test") == tree


@given(TREES)
@example({"?0": None})
def test_one_line_is_read_back_equal(tree):
    text = to_yaml(tree, flow=True)
    assert parse_yaml(text, "test") == tree


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", "line 3, column 2"),
        ("a: &a\n  b: *a\n", "config.yaml: cannot be read, Circular reference"),
        ("a: " + "[" * 3000, "config.yaml: cannot be read, maximum recursion depth"),
        ("a: " + "1" * 5000, "config.yaml: cannot be read, Exceeds the limit"),
        ("a: 1\na: 2\n", "line 2, column 1: not YAML, the key 'a' stands twice"),
        ("a: b: c\n", "line 1, column 5"),
        ("1: a\n", "the key 1 is not text"),
        ("a: !!python/object:os.system x\n", "line 1, column 4"),
    ],
)
def test_broken_yaml_names_line_and_column(text, where):
    with pytest.raises(ValueError, match="config.yaml") as told:
        parse_yaml(text, "config.yaml")
    assert where in str(told.value) and "\n" not in str(told.value)


def test_a_file_that_is_not_utf8_names_the_byte(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(ValueError, match="byte 3 is not UTF-8"):
        read_yaml(tmp_path / "a.yaml")
