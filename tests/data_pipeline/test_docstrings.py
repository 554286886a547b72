"""Questions answered by docstrings: true, of one side only, and never answered by a near-duplicate of a
held-out answer.
"""

import re
from collections import Counter

import pytest

from data_pipeline.clean.overlap import HeldOutIndex
from data_pipeline.documents.document import Document, content_id
from data_pipeline.readers.code_tree import CodeTree, StdlibCode
from data_pipeline.readers.part import read_all
from data_pipeline.stages.docstrings import pairs_from_code, preferences, questions

CODE = (
    '''
"""A module about folding paper, long enough to be a docstring."""

class Page(Sheet, metaclass=Meta):
    """A page that can be folded
    and unfolded again.

    More about it.
    """

    def fold(self, times: int = 1, *, hard=False) -> "Page":
        """Fold the page as often as said and give it back."""
        def inner():
            """A function inside that nobody can ask about."""

    def short(self):
        """Too short."""

    async def wait(self):
        """Fold the page as often as said and give it back."""

if True:
    def flatten(pages):
        """Press all pages flat again without tearing a single one of them."""

    def example():
        """>>> example() of a call that is no prose at all"""

def unreadable('''
    + ", ".join(f"argument_{i}" for i in range(40))
    + '''):
    """Take a great many arguments and do nothing with them."""

def rambling():
    """'''
    + "word " * 61
    + '''"""
'''
)


def document(text: str, path: str) -> Document:
    return Document(content_id(text), text, "code", path, path.split("/")[0])


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return pairs_from_code(read_all(StdlibCode(), "code", work=tmp_path_factory.mktemp("work")))


@pytest.fixture(scope="module")
def made(pairs):
    return preferences(pairs, seed=0)


def test_pairs_are_named_signed_and_first_paragraphs_only():
    found = pairs_from_code(
        [
            document(CODE, "paper/page.py"),
            document("not python at all", "paper/x.py"),
            document(CODE, "paper/x.md"),
        ]
    )
    assert [tuple(pair) for pair in found] == [
        (
            "paper.page",
            "Page",
            "class Page(Sheet)",
            "A page that can be folded and unfolded again.",
        ),
        (
            "paper.page",
            "Page.fold",
            "Page.fold(self, times: int=1, *, hard=False) -> 'Page'",
            "Fold the page as often as said and give it back.",
        ),
        (
            "paper.page",
            "flatten",
            "flatten(pages)",
            "Press all pages flat again without tearing a single one of them.",
        ),
        (
            "paper.page",
            "unreadable",
            "unreadable(...)",
            "Take a great many arguments and do nothing with them.",
        ),
    ]


def test_a_package_is_named_without_init():
    assert pairs_from_code([document(CODE, "paper/__init__.py")])[0].module == "paper"


def test_the_standard_library_gives_thousands_of_pairs_each_answer_once(pairs):
    assert len(pairs) > 4_000
    assert (
        max(Counter(pair.text for pair in pairs).values())
        == max(Counter((p.module, p.name) for p in pairs).values())
        == 1
    )
    assert all(4 <= len(pair.text.split()) <= 60 and "\n" not in pair.text for pair in pairs)


def test_a_chat_asks_about_one_definition_and_is_answered_by_its_docstring(pairs):
    chats = questions(pairs, seed=0)
    for pair, (user, assistant) in zip(pairs, chats, strict=True):
        assert (user["role"], assistant) == ("user", {"role": "assistant", "content": pair.text})
        assert (
            pair.module in user["content"]
            and pair.name in user["content"]
            and pair.signature in user["content"]
        )


def test_wordings_are_spread_and_depend_on_the_definition_alone(pairs):
    chats = questions(pairs, seed=0)
    starts = Counter(chat[0]["content"].split("`")[0].split(":")[0] for chat in chats)
    assert len(starts) == 6 and min(starts.values()) > len(chats) / 10
    assert questions(pairs[::-1], seed=0) == chats[::-1] and questions(pairs, seed=1) != chats


def test_a_rejected_answer_is_of_the_same_module_and_clearly_different(pairs, made):
    answers = {pair.text: pair for pair in pairs}
    assert len(made) > 0.9 * len(pairs)
    for (user,), chosen, rejected in made:
        assert user["role"] == "user" and answers[chosen].module == answers[rejected].module
        a, b = (set(re.findall(r"\w+", text.lower())) for text in (chosen, rejected))
        assert a != b and len(a & b) < 0.6 * len(a | b)


def test_length_does_not_give_the_right_answer_away(made):
    longer = sum(len(preference.chosen) > len(preference.rejected) for preference in made)
    assert 0.4 < longer / len(made) < 0.6


def test_a_module_with_one_docstring_gives_no_preference():
    only = 'def f():\n    """Fold the page and give it back."""\n'
    assert preferences(pairs_from_code([document(only, "a.py")]), seed=0) == []


def test_training_pairs_that_repeat_a_held_out_docstring_are_left_out():
    held_out = document(
        'def f():\n    """Fold the page and give it back to whoever asked for it."""\n', "held.py"
    )
    copied = 'def g():\n    """{}\n\n    And a long explanation that makes the whole docstring another one, word by word by word by word."""\n'
    near = copied.format("Fold the page and give it back to whoever asked for one.")
    training = [
        document(near, "a.py"),
        document(copied.format("Unfold what somebody else has folded."), "b.py"),
    ]
    index = HeldOutIndex([held_out], jaccard=0.7)
    assert [p.module for p in pairs_from_code(training, index=index)] == ["b"]
    assert [p.module for p in pairs_from_code(training)] == ["a", "b"]


def test_pairs_follow_the_files_of_a_users_own_tree(tmp_path):
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper/page.py").write_text(CODE)
    (tmp_path / "cut.py").write_text('def cut():\n    """Cut the page along its fold."""\n')
    documents = read_all(CodeTree(folder=str(tmp_path)), "code", work=tmp_path)
    assert [(p.module, p.name) for p in pairs_from_code(documents)][:2] == [
        ("cut", "cut"),
        ("paper.page", "Page"),
    ]
