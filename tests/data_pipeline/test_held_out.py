"""Held out means held out. The checks here use a tokeniser, a docstring finder and a similarity of their
own, not the filter's.
"""

import ast
import functools
import re
import tempfile
import warnings
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.clean.held_out import HeldOutFilter, canonical, split_groups
from data_pipeline.clean.overlap import HeldOutIndex
from data_pipeline.clean.recipe import standard_recipe
from data_pipeline.documents.corpus import read_documents
from data_pipeline.documents.document import Document, content_id
from data_pipeline.documents.drops import Drops, merged
from data_pipeline.engine.runner import Engine
from data_pipeline.files import read_json
from data_pipeline.readers.books import Books
from data_pipeline.readers.code_tree import STDLIB_EXCLUDE, StdlibCode
from data_pipeline.readers.part import read_all
from data_pipeline.readers.stdlib_docs import StdlibDocs
from data_pipeline.stages.separate import separate
from data_pipeline.stages.text import HELD_OUT as ASIDE
from data_pipeline.stages.text import REPORT, TRAIN, Text, write_side

FILTER = HeldOutFilter(jaccard=0.7, common_groups=3)
MODULES = """abc argparse array asyncio.locks asyncio.queues bisect builtins calendar cmath codecs collections collections.abc configparser
copy csv datetime decimal difflib enum fractions functools heapq http.client io ipaddress json json.decoder json.encoder logging math
multiprocessing.managers multiprocessing.queues numbers operator pathlib pickle posixpath ntpath pwd queue random secrets shutil
socketserver statistics string tempfile textwrap threading timeit typing uuid weakref zipfile""".split()


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@functools.cache
def docstrings(code: str) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(code)
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [
        text
        for node in ast.walk(tree)
        if isinstance(node, owners) and (text := ast.get_docstring(node))
    ]


def runs(text: str, n: int) -> set[tuple]:
    all_words = words(text)
    return {tuple(all_words[i : i + n]) for i in range(len(all_words) - n + 1)}


def is_code(document: Document) -> bool:
    return document.path.endswith(".py")


def shared_runs(training, held_out) -> list[tuple]:
    """(path, run) of every run of 13 words of held-out docstrings, pages or books that any training
    document has anywhere.
    """
    theirs = set()
    for document in held_out:
        for text in docstrings(document.text) if is_code(document) else [document.text]:
            theirs |= runs(text, 13)
    return [
        (document.path, run) for document in training for run in runs(document.text, 13) & theirs
    ]


def repeated_docstrings(training, held_out) -> list[tuple]:
    """(path, docstring) of training docstrings that equal a held-out one, or share 70 % of its 3-word
    shingles.
    """
    theirs = [
        text for document in held_out if is_code(document) for text in docstrings(document.text)
    ]
    exact = {" ".join(words(text)) for text in theirs}
    holders = defaultdict(set)
    shingles = {text: runs(text, 3) for text in theirs}
    for text, found in shingles.items():
        for shingle in found:
            holders[shingle].add(text)
    repeated = []
    for document in filter(is_code, training):
        for text in docstrings(document.text):
            own = runs(text, 3)
            near = (
                set().union(*(holders[shingle] for shingle in own if shingle in holders))
                if len(words(text)) >= 5
                else set()
            )
            alike = any(
                len(own & shingles[other]) >= 0.7 * len(own | shingles[other]) for other in near
            )
            if alike or (words(text) and " ".join(words(text)) in exact):
                repeated.append((document.path, text))
    return repeated


class Sides(NamedTuple):
    """Both sides after the filter."""

    training: list[Document]
    held_out: list[Document]
    index: HeldOutIndex


def separated_by_filter(training: list[Document], held_out: list[Document]) -> tuple[Sides, Drops]:
    """What the stage makes of the two sides, and what it counts."""
    with tempfile.TemporaryDirectory() as folder:
        texts = []
        for side, documents in ((TRAIN, training), (ASIDE, held_out)):
            path = Path(folder, f"{side}.parquet")
            texts.append(Text(side, "any", path, **write_side(path, iter(documents)), lineage=path))
        found = separate(
            texts, FILTER, Path(folder, "stage"), engine=Engine(workers=1), advance=lambda: None
        )
        after = [
            [d for text in found.texts if text.side == side for d in read_documents(text.path)]
            for side in (TRAIN, ASIDE)
        ]
        return Sides(*after, found.index), merged(
            read_json(report / REPORT) for report in found.reports
        )


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """(training, held out, both after the filter, drops) of the real standard library: pages, code and
    topics.
    """
    work = tmp_path_factory.mktemp("work")
    large = (
        "/idlelib/*",
        "/tkinter/*",
        "/lib2to3/*",
        "/turtle.py",
        "/encodings/*",
        "/email/*",
        "/asyncio/*",
        "/unittest/*",
    )
    documents = [
        *read_all(StdlibDocs(modules=tuple(MODULES)), "web", work=work),
        *read_all(StdlibCode(exclude=(*STDLIB_EXCLUDE, *large)), "code", work=work),
        *read_all(Books(), "books", work=work),
    ]
    for rule in standard_recipe():
        rewritten, _ = rule.annotate(
            [document for document in documents if document.source in rule.sources]
        )
        documents = [
            document for document in documents if document.source not in rule.sources
        ] + rewritten
    groups = defaultdict(set)
    for document in documents:
        groups[document.source].add(document.group)
    set_aside = split_groups(groups, frac=0.05, seed=3)
    training = [d for d in documents if d.group not in set_aside]
    held_out = [d for d in documents if d.group in set_aside]
    return training, held_out, *separated_by_filter(training, held_out)


def test_no_run_of_13_held_out_words_is_in_any_training_document(sides):
    _, _, separated, _ = sides
    assert shared_runs(separated.training, separated.held_out) == []


def test_no_training_docstring_repeats_a_held_out_one(sides):
    _, _, separated, _ = sides
    assert repeated_docstrings(separated.training, separated.held_out) == []


def test_without_the_filter_both_checks_fail(sides):
    training, held_out, _, _ = sides
    assert len(shared_runs(training, held_out)) > 100 and repeated_docstrings(training, held_out)


def test_the_filter_keeps_the_bulk_of_both_sides(sides):
    training, held_out, separated, _ = sides
    for before, after in ((training, separated.training), (held_out, separated.held_out)):
        for source in ("web", "code", "books"):
            n_before, n_after = (
                sum(len(d.text) for d in side if d.source == source) for side in (before, after)
            )
            assert 0.85 * n_before < n_after <= n_before
        assert len(after) >= len(before) - 3


def test_code_parses_after_the_filter_and_every_cut_is_counted(sides):
    training, held_out, separated, drops = sides
    before = {(d.source, d.path): d for d in (*training, *held_out)}
    after = {(d.source, d.path): d for d in (*separated.training, *separated.held_out)}
    changed = [key for key, d in after.items() if d.text != before[key].text]
    assert all(ast.parse(after[key].text) for key in changed if is_code(after[key]))
    counts = defaultdict(int)
    for table in drops.counts.values():
        for reason, n in table.items():
            counts[reason.endswith("_spans")] += n
    assert len(before) - len(after) == counts[False] and 0 < len(changed) <= counts[True]
    assert all(d.id == before[key].id for key, d in after.items())


def test_both_sides_have_text_of_every_source_and_no_group_is_on_both(sides):
    _, _, separated, _ = sides
    for documents in (separated.training, separated.held_out):
        assert {d.source for d in documents} == {"web", "code", "books"}
    ours, theirs = (
        {canonical(d.group) for d in side} for side in (separated.training, separated.held_out)
    )
    assert not ours & theirs


NAMES = st.sets(
    st.sampled_from(
        [f"m{i}" for i in range(40)]
        + ["decimal", "_pydecimal", "os", "ntpath", "posixpath", "io", "_pyio"]
    ),
    min_size=8,
)


@given(web=NAMES, code=NAMES, seed=st.integers(0, 99), frac=st.floats(0.01, 0.5))
def test_each_source_has_its_fraction_set_aside_and_twins_stay_together(web, code, seed, frac):
    set_aside = split_groups({"web": web, "code": code}, frac=frac, seed=seed)
    assert set_aside == split_groups(
        {"code": sorted(code), "web": sorted(web)[::-1]}, frac=frac, seed=seed
    )
    for names in (web, code):
        units = {canonical(name) for name in names}
        taken = {canonical(name) for name in names & set_aside}
        assert len(taken) >= min(frac * len(units), len(units) - 1)
        assert not taken & {canonical(name) for name in names - set_aside}


def test_adding_a_group_leaves_the_others_in_the_same_order():
    names = [f"m{i}" for i in range(60)]
    before = split_groups({"code": names}, frac=0.1, seed=0)
    after = split_groups({"code": [*names, "one_more"]}, frac=0.1, seed=0)
    assert len(before & after) >= len(before) - 1


def test_a_source_of_one_group_or_a_wrong_fraction_is_one_clear_error():
    with pytest.raises(
        ValueError,
        match=r"source 'books' has 1 group\(s\) and a held-out split needs 2; add documents",
    ):
        split_groups({"books": ["book:a.txt"]}, frac=0.05, seed=0)
    with pytest.raises(
        ValueError, match="held_out_frac=5.0 must lie between 0 and 1; 0.05 sets aside a twentieth"
    ):
        split_groups({"books": ["a", "b"]}, frac=5.0, seed=0)


def code(text: str, path: str) -> Document:
    return Document(content_id(text), text, "code", path, path.split("/")[0].removesuffix(".py"))


SECRET = "Fold the corner of every third page and report how many were folded."
NEAR = "Fold the corner of every third page and report how many were turned."
HELD_OUT = code(f'def fold(pages):\n    """{SECRET}"""\n    return 3\n', "held.py")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('def g():\n    """{}"""\n    return 1\n', "def g():\n    return 1\n"),
        ('def g():\n    """{}"""\n', "def g():\n    pass\n"),
        ('def g(): "{}"; return 1\n', "def g(): pass; return 1\n"),
        ('class C:\n    "{}"\n    "Second."\n', 'class C:\n    pass\n    "Second."\n'),
        ('"""{}"""\nx = "é"\n', 'x = "é"\n'),
        ('class É:\n    u"""{}"""  # why\n    y = 1\n', "class É:\n    pass  # why\n    y = 1\n"),
        (
            'def g():\n    """Something else.\n\n    {}\n    """\n    return 1\n',
            "def g():\n    return 1\n",
        ),
    ],
)
@pytest.mark.parametrize("text", [SECRET, NEAR, SECRET.upper()])
def test_a_near_duplicate_docstring_is_cut_and_the_code_around_it_stays(body, expected, text):
    separated, drops = separated_by_filter([code(body.format(text), "train.py")], [HELD_OUT])
    assert [d.text for d in separated.training] == [expected]
    assert drops.counts["code"]["held_out_near_duplicate_spans"] == 1


def test_other_docstrings_of_the_same_subject_stay():
    text = 'def g():\n    """Report how many pages of a book are left to fold."""\n    return 1\n'
    assert separated_by_filter([code(text, "train.py")], [HELD_OUT])[0].training[0].text == text


def test_code_that_keeps_held_out_words_outside_docstrings_is_dropped():
    separated, drops = separated_by_filter([code(f"# {SECRET}\nx = 1\n", "train.py")], [HELD_OUT])
    assert separated.training == [] and drops.counts["code"] == {"held_out_overlap": 1}


def test_of_a_page_only_the_lines_that_repeat_are_cut():
    page = f"Folding\n\nfold(pages)\n{NEAR}\nkeep(pages)\nKeep every page flat, and press the book when it is done.\n"
    separated, drops = separated_by_filter(
        [Document("1", page, "web", "http://x", "x")], [HELD_OUT]
    )
    assert (
        separated.training[0].text == page.replace(NEAR + "\n", "")
        and drops.counts["web"]["held_out_near_duplicate_spans"] == 1
    )


def test_short_docstrings_are_compared_word_by_word():
    held_out = code('def f():\n    """Fold it twice."""\n    return 1\n', "held.py")
    training = [
        code(f'def g():\n    """{text}"""\n    return 1\n', "a.py")
        for text in ("Fold it, twice!", "Fold it thrice.")
    ]
    assert ["Fold" in d.text for d in separated_by_filter(training, [held_out])[0].training] == [
        False,
        True,
    ]


def test_what_three_groups_say_is_common_language_and_leaves_the_held_out_side_instead():
    said = 'def g():\n    """Return a copy of this object with the same items."""\n    return 1\n'
    separated, drops = separated_by_filter(
        [code(said, f"{name}.py") for name in "abc"], [code(said, "held.py")]
    )
    assert [d.text for d in separated.training] == [said] * 3
    assert separated.held_out[0].text == "def g():\n    return 1\n" and drops.counts["code"] == {
        "held_out_common_spans": 1
    }
    assert not separated.index.matches("Return a copy of this object with the same items.")
