"""One alphabet: the letters that end names, stand in einsum equations and in shape annotations are those of
model/sharding.py.
"""

import ast
import re
from collections.abc import Iterator

from model.sharding import ALPHABET
from tests.house.repository import ROOMS, sources

SUFFIX = re.compile(r"[a-z][a-z0-9_]*_((?:[A-Z][0-9]*)+)")
LETTER = re.compile(r"[A-Z]")
EINSUMS = ("einsum",)
SHAPED = (
    "Float",
    "Int",
    "Bool",
    "UInt",
    "Key",
    "Num",
    "Shaped",
    "Inexact",
    "Real",
    "Integer",
    "Float32",
    "BFloat16",
    "Int32",
    "UInt32",
)


def names(tree: ast.AST) -> Iterator[str]:
    """What a file calls its variables, parameters, fields and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            yield node.arg


def strangers(text: str) -> set[str]:
    """The letters of `text` that the alphabet lacks."""
    return set(LETTER.findall(text)) - set(ALPHABET)


def test_a_names_suffix_is_written_in_the_alphabet():
    wrong = {
        f"{path}: {name}"
        for path, tree in sources(*ROOMS, "tests").items()
        for name in names(tree)
        if (found := SUFFIX.fullmatch(name)) and strangers(found[1])
    }
    assert not wrong


def test_an_einsum_is_written_in_the_alphabet():
    wrong = set()
    for path, tree in sources(*ROOMS, "tests").items():
        for node in ast.walk(tree):
            called = (
                isinstance(node, ast.Call)
                and getattr(node.func, "attr", getattr(node.func, "id", None)) in EINSUMS
            )
            for text in node.args if called else ():
                if (
                    isinstance(text, ast.Constant)
                    and isinstance(text.value, str)
                    and (bad := strangers(text.value.upper()))
                ):
                    wrong.add(f"{path}:{node.lineno}: {text.value} {bad}")
    assert not wrong


def test_a_shape_is_written_in_the_alphabet():
    """`Float[Array, "B L D"]`: a dimension that is one capital letter, with a digit or not, is of the
    alphabet.
    """
    wrong = set()
    for path, tree in sources(*ROOMS).items():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Subscript)
                and getattr(node.value, "id", None) in SHAPED
                and isinstance(node.slice, ast.Tuple)
            ):
                shape = node.slice.elts[-1]
                letters = (
                    re.findall(r"\b[A-Z][0-9]*\b", shape.value)
                    if isinstance(shape, ast.Constant)
                    else []
                )
                wrong |= {
                    f"{path}:{node.lineno}: {letter}" for letter in letters if strangers(letter)
                }
    assert not wrong


def test_the_alphabet_has_a_meaning_for_every_letter():
    assert all(re.fullmatch(r"[A-Zl]", letter) and meaning for letter, meaning in ALPHABET.items())


def test_the_rule_sees_a_stranger():
    assert (
        strangers("BLX") == {"X"}
        and SUFFIX.fullmatch("w_up_DF")[1] == "DF"
        and SUFFIX.fullmatch("wq_DHA2")[1] == "DHA2"
    )
    assert SUFFIX.fullmatch("JOIN_S") is None and SUFFIX.fullmatch("n_steps") is None
