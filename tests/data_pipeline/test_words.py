"""Words, lines and their hashes are those of a plain loop over characters."""

import numpy as np
import pytest
from hypothesis import given

from data_pipeline.clean import words
from data_pipeline.clean.characters import kinds, marks
from data_pipeline.clean.words import Layout, grouped, hash_of, layouts
from tests.data_pipeline.texts import LAW, REAL, TEXTS, is_unspaced, lines_of, words_of


def words_in(layout: Layout) -> list[list[str]]:
    text = "".join(map(chr, layout.chars))
    return [
        [
            text[layout.start[i] : layout.end[i]]
            for i in range(layout.first[number], layout.first[number + 1])
        ]
        for number in range(layout.n)
    ]


@LAW
@given(TEXTS)
def test_words_and_lines_are_those_of_a_plain_loop(pairs):
    texts = [text for text, _ in pairs]
    layout = Layout(texts)
    assert words_in(layout) == [words_of(text) for text in texts]
    text = "".join(map(chr, layout.chars))
    lines = layout.lines
    found = [[] for _ in texts]
    for first, stop, number, owner, begin, end in zip(*lines, strict=True):
        found[owner].append(text[layout.start[first] : layout.end[stop - 1]])
        assert (
            texts[owner].split("\n")[number].strip() == found[owner][-1]
            and text[begin:end] == texts[owner].split("\n")[number]
        )
    assert found == [lines_of(text) for text in texts]


@LAW
@given(TEXTS)
def test_equal_words_have_equal_hashes_wherever_they_stand(pairs):
    layout = Layout([text for text, _ in pairs])
    flat = [word for text in words_in(layout) for word in text]
    assert [int(key) for key in layout.hashes] == [hash_of(word) for word in flat]
    assert len(set(flat)) == len({hash_of(word) for word in flat})


@pytest.mark.parametrize("language", ["zh", "ja", "th"])
def test_scripts_without_spaces_are_words_of_one_character(language):
    unspaced = [character for character in REAL[language] if is_unspaced(character)]
    assert len(unspaced) > 60 and all(
        len(word) == 1 or not is_unspaced(word[0]) or language == "th"
        for word in words_of(REAL[language])
    )
    assert words_in(Layout([REAL[language]])) == [words_of(REAL[language])]


def test_a_table_entry_is_what_python_says_of_the_character():
    for code in (*range(0x3000), 0x4E00, 0x1D7D8, 0x10FFFF):
        character, flags = chr(code), int(kinds()[code])
        told = (
            character.isspace(),
            # Marks too, which Python counts to no word: without them no Indic word is whole.
            character.isalpha() or code in marks(),
            character.isalnum() or code in marks(),
            character.isupper(),
            character.isdigit(),
        )
        assert tuple(bool(flags >> bit & 1) for bit in range(5)) == told, hex(code)


def test_equal_keys_are_grouped_even_where_their_high_bits_are_those_of_others():
    keys = np.array([5, 4, 5, 1 << 60, 4, 5, (1 << 60) + 1], np.uint64)
    order, same = grouped(keys)
    assert order.tolist() == [1, 4, 0, 2, 5, 3, 6] and same.tolist() == [
        False,
        True,
        False,
        True,
        True,
        False,
        False,
    ]


def test_a_batch_is_cut_into_chunks_between_texts_and_kept_for_the_next_rule(monkeypatch):
    monkeypatch.setattr(words, "CHUNK_CHARS", 10)
    texts = ("a b", "c" * 30, "", "d e f", "g h")
    found = layouts(texts)
    assert [words_in(layout) for layout in found] == [
        [["a", "b"]],
        [["c" * 30], []],
        [["d", "e", "f"], ["g", "h"]],
    ] or len(found) > 1
    assert [word for layout in found for word in words_in(layout)] == [
        text.split() for text in texts
    ]
    assert layouts(texts) is found
