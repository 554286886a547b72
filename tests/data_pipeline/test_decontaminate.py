"""Evaluation tasks in the corpus: found wherever they stand, recorded without their text, dropped or cut."""

import gzip
import json

import numpy as np
import pytest
from pydantic import ValidationError

from data_pipeline.clean.canonical import canonical
from data_pipeline.clean.decontaminate import Decontaminate, recheck
from data_pipeline.clean.rule import AcrossRule
from data_pipeline.tasks.questions import Questions
from data_pipeline.tasks.task import Task
from tests.data_pipeline.across import documents, left_of, verdicts_of, write_keys

LONG = "A farmer has seventeen sheep and all but nine of them run away into the woods at night"
TEN = "Which American writer won the prize for literature in 1930"
ROWS = [
    {
        "question": LONG,
        "answer": "Nine are left because all the others have run away, secretly counted",
    },
    {"question": TEN, "answer": "Sinclair Lewis"},
    {"question": "What is gravity?", "answer": "A force"},
]
OTHER = [
    {
        "question": "Name the largest of the many rivers that flow north through the wide Siberian plains",
        "answer": "Ob",
    }
]
FILLER = "Nothing to see in this page of quite ordinary words about gardens and their many flowers, rain or shine, all year long."


@pytest.fixture
def tasks(tmp_path):
    (tmp_path / "sheep.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "rivers.json.gz").write_bytes(gzip.compress(json.dumps(OTHER).encode()))
    return tuple(
        Questions(name=name, path=str(tmp_path / file), question=("question",), answer="answer")
        for name, file in (("sheep", "sheep.jsonl"), ("rivers", "rivers.json.gz"))
    )


def rule(tasks, action="drop", **fields):
    return Decontaminate(
        sources=("web",), tasks=tasks, action=action, **{"max_removed_frac": 1.0, **fields}
    )


def lost(tasks, texts, folder, **fields):
    return [
        number
        for number, text in enumerate(left_of(rule(tasks, **fields), texts, folder))
        if text is None
    ]


def test_a_run_of_13_words_is_found_in_any_dress_and_12_are_not(tasks, tmp_path):
    words = LONG.split()
    texts = [
        FILLER,
        f"{FILLER} {' '.join(words[2:15]).upper()}! {FILLER}",
        "1) " + ",\n".join(words[5:]) + "?",
        " ".join(words[2:14]),
        f"{' '.join(words[:12])} and {' '.join(words[12:])}",
        OTHER[0]["question"],
    ]
    assert lost(tasks, texts, tmp_path) == [1, 2, 5]


def test_an_answer_after_its_question_is_found_with_it_and_an_answer_alone_if_it_is_long_enough(
    tasks, tmp_path
):
    texts = [
        "into the woods at night Nine are left because all the others have run",
        "secretly counted",
        "Sinclair Lewis was a writer",
    ]
    assert lost(tasks, texts, tmp_path) == [0]


def test_short_questions_are_found_whole_and_the_shortest_as_a_line(tasks, tmp_path):
    texts = [
        f"3. {TEN}? {FILLER}",
        TEN.rsplit(" ", 1)[0],
        "so, what is gravity, really",
        f"{FILLER}\n  WHAT is gravity\n{FILLER}",
    ]
    assert lost(tasks, texts, tmp_path) == [0, 3]


def test_every_hit_is_recorded_with_task_key_and_place(tasks, tmp_path):
    text = f"{FILLER} “{LONG}!” {FILLER}"
    found = verdicts_of(rule(tasks), [FILLER, text], tmp_path)
    n_runs = len(LONG.split()) - 12
    assert (
        found["task"].tolist() == ["sheep"] * n_runs
        and set(found["document"]) == {1}
        and set(found["n_documents"]) == {1}
    )
    stretches = [text[start:end] for start, end in zip(found["start"], found["end"], strict=True)]
    assert stretches == [" ".join(LONG.split()[i : i + 13]) for i in range(n_runs)]
    words = canonical(stretches)
    assert found["ngram"].tolist() == words.keys(words.first[:-1], words.first[1:]).tolist()


def test_no_text_of_a_task_is_written_down(tasks, tmp_path):
    verdicts_of(rule(tasks), [LONG, " ".join(ROWS[0].values())], tmp_path / "keys")
    written = b"".join(path.read_bytes() for path in (tmp_path / "keys").rglob("*.parquet"))
    assert b"sheep" in written and not any(
        word in written for word in (b"farmer", b"secretly", b"woods")
    )


def test_cutting_leaves_the_rest_and_no_hit(tasks, tmp_path):
    texts = [f"{FILLER} {LONG}. {FILLER}", FILLER]
    left = left_of(rule(tasks, "cut"), texts, tmp_path)
    assert left == [f"{FILLER} . {FILLER}", FILLER]
    assert not list(recheck(left, tasks[0]))


def test_what_many_documents_have_is_common_language_and_stays(tasks, tmp_path):
    # 13 of the 17 words of a question: less than four fifths of it.
    phrase = " ".join(LONG.split()[:13])
    texts = [f"{i} {phrase} {i}" for i in range(11)] + [OTHER[0]["question"]]
    assert lost(tasks, texts, tmp_path / "11") == [11]
    assert lost(tasks, texts[1:], tmp_path / "10") == list(range(11))
    assert lost(tasks, texts, tmp_path / "limit", max_documents=11) == list(range(12))
    assert len(verdicts_of(rule(tasks), texts, tmp_path / "recorded")["document"]) > 11


def test_a_question_that_many_documents_hold_is_dropped_in_all_of_them(tasks, tmp_path):
    changed = LONG.replace("woods at night", "woods at noon")
    for number, held in enumerate((LONG, f"{LONG}? {ROWS[0]['answer']}", changed, TEN)):
        texts = [f"{FILLER} {i} {held} {i}" for i in range(12)] + [FILLER]
        assert lost(tasks, texts, tmp_path / str(number)) == list(range(12))
    # Of a preamble that all questions share nobody holds a question.
    preamble = (
        "Read the passage below with care and then choose the one answer that fits it best of all"
    )
    rows = [{"question": f"{preamble} {LONG} {i}", "answer": ""} for i in range(30)]
    (tmp_path / "sheep.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert lost(tasks, [f"{preamble} {i}" for i in range(12)], tmp_path / "preamble") == []


def test_each_task_alone_gives_the_signals_it_has_among_others(tasks):
    texts = documents(FILLER, LONG, OTHER[0]["question"], f"{LONG}\n{OTHER[0]['question']}", "")
    _, whole = rule(tasks).annotate(texts)
    parts = rule(tasks).pieces()
    assert [task.name for part in parts for task in part.tasks] == ["sheep", "rivers"]
    signals = {name: values for part in parts for name, values in part.annotate(texts)[1].items()}
    assert signals.keys() == whole.keys()
    assert all(
        np.array_equal(a, b)
        for name in whole
        for a, b in zip(signals[name], whole[name], strict=True)
    )


def test_finished_text_is_checked_against_a_new_task_alone(tasks):
    texts = [FILLER] * 1001 + [f"{FILLER} {OTHER[0]['question']}"]
    hits = list(recheck(iter(texts), tasks[1]))
    assert (
        {hit.text for hit in hits} == {1001}
        and hits[0].start == len(FILLER) + 1
        and hits[-1].end == len(texts[1001])
    )
    assert not list(recheck(texts, tasks[0]))


def test_the_verdicts_are_the_same_for_any_number_of_files(tasks, tmp_path):
    texts = [FILLER, LONG, f"{TEN} {LONG}", OTHER[0]["question"], ""]
    found = []
    for n_files in (1, 3, 5):
        folder = tmp_path / str(n_files)
        rule(tasks).resolve(write_keys(rule(tasks), texts, folder, n_files), folder / "out.parquet")
        found.append((folder / "out.parquet").read_bytes())
    assert len(set(found)) == 1


def test_a_changed_file_is_another_task(tasks, tmp_path):
    before = rule(tasks).fingerprint()
    assert [len(keys) for keys in rule(tasks).annotate(documents(FILLER))[1]["sheep_ngram"]] == [0]
    (tmp_path / "sheep.jsonl").write_text(json.dumps({"question": FILLER, "answer": ""}))
    assert rule(tasks).fingerprint() != before
    assert [
        len(keys) > 0 for keys in rule(tasks).annotate(documents(FILLER))[1]["sheep_ngram"]
    ] == [True]


def test_no_tasks_find_nothing(tmp_path):
    assert lost((), [FILLER], tmp_path) == []


def test_the_rule_and_its_tasks_keep_their_contracts(tasks):
    made = rule(tasks)
    assert isinstance(made, AcrossRule) and all(isinstance(task, Task) for task in tasks)
    assert Decontaminate.model_validate_json(made.model_dump_json()) == made and hash(made)


def test_more_hits_than_allowed_are_one_sentence(tasks, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"Decontaminate would remove 2 of 3 documents \(66.7%\) of web, more than max_removed_frac=0.5",
    ):
        verdicts_of(rule(tasks, max_removed_frac=0.5), [LONG, FILLER, TEN], tmp_path)


def test_two_tasks_of_one_name_are_refused(tasks):
    with pytest.raises(
        ValidationError, match="tasks are named sheep, sheep; give each a name of its own"
    ):
        rule((tasks[0], tasks[0]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"tasks\.bad\.path=.*: No such file or directory; give a file of JSON records"),
        (
            b'{"question": "x"',
            r"tasks\.bad\.path=.* is not a file of JSON records \(.*\); give one",
        ),
        (
            b'{"question": "x", "answer": "y"}\n{"question": "x"}',
            "tasks.bad: record 2 of .* has no field 'answer'; give one that all have",
        ),
        (b"[3]", "tasks.bad: record 1 of .* has no field 'question'; give one that all have"),
    ],
)
def test_a_task_that_cannot_be_read_says_why(content, message, tmp_path):
    if content is not None:
        (tmp_path / "bad.json").write_bytes(content)
    task = Questions(
        name="bad", path=str(tmp_path / "bad.json"), question=("question",), answer="answer"
    )
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        rule((task,)).annotate(documents(FILLER))
