"""Laws of grading: by the final number as GSM8K is graded, or by the text; and of the questions as tokens."""

import gzip
import json
from decimal import Decimal

import pytest

from data_pipeline.batch import TokenBatch
from data_pipeline.chat.format import chat_format_of
from data_pipeline.chat.roles import Roles
from data_pipeline.tasks.asked import answer_in, asked_in_chat, asked_in_text, gold_rows
from data_pipeline.tasks.questions import Questions, final_number, same_text
from data_pipeline.tasks.task import Item, Task
from data_pipeline.tokenizers.tokenizer import SentencePiece, Tokenizer
from tests.data_pipeline.templates import STYLES, with_template

GSM8K = [
    {
        "question": "Ann has 4 pens and buys 3. How many?",
        "answer": "She has 4+3 = <<4+3=7>>7 pens.\n#### 7",
    },
    {
        "question": "A car costs $1,200 and a bike a tenth. The bike's price?",
        "answer": "1200/10 = $<<1200/10=120>>120\n#### 120",
    },
    {"question": "What is 5 less than 2?", "answer": "2-5 = -3\n#### -3"},
]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so she has 72 clips.\n#### 72", "72"),
        ("#### 1,234", "1234"),
        ("#### $18.00", "18"),
        ("####-3", "-3"),
        ("#### 7\n\nNext: 2 + 2 = 4\n#### 4", "7"),
        ("#### none, I think it is 12", "12"),
        ("The answer is 42.", "42"),
        ("The answer is **1,234,567**!", "1234567"),
        ("It costs $3.50 in all", "3.5"),
        ("7-5 leaves 2", "2"),
        ("we are at -5", "-5"),
        ("the answer is −8", "-8"),
        ("a minus in 9-4", "4"),
        ("one of 1,2,3", "3"),
        ("about .5", "0.5"),
        ("12 apples, then 0", "0"),
        ("no number at all", None),
        ("", None),
    ],
)
def test_the_final_number_is_the_marked_one_or_the_last(text, number):
    assert final_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("answer", "wanted", "same"),
    [
        ("Paris", " paris.\n", True),
        ("the  Nile", "The Nile", True),
        ("Paris, France", "Paris", False),
        ("", "Paris", False),
    ],
)
def test_texts_are_the_same_but_for_capitals_white_space_and_a_full_stop(answer, wanted, same):
    assert same_text(answer, wanted) is same


def questions(folder, rows=GSM8K, **fields) -> Questions:
    (folder / "task.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    )
    return Questions(
        **{
            "name": "sums",
            "path": str(folder / "task.jsonl.gz"),
            "question": ("question",),
            "answer": "answer",
            **fields,
        }
    )


def test_an_answer_is_graded_by_its_value(tmp_path):
    task = questions(tmp_path, grading="number")
    items = task.items()
    assert isinstance(task, Task) and [item.prompt for item in items] == [
        row["question"] for row in GSM8K
    ]
    assert [task.grade(item, item.answer) for item in items] == [1.0] * 3
    assert task.grade(items[0], "4 and 3 make 7.0") == 1.0 == task.grade(items[2], "#### -3.")
    assert task.grade(items[0], "#### 8") == 0.0 == task.grade(items[0], "seven")
    assert questions(tmp_path).grade(items[0], "#### 7") == 0.0, "by the text"


def test_numbers_in_json_and_questions_of_several_fields_are_asked_as_text(tmp_path):
    rows = [{"Body": "Dan has 4.", "Question": "How many?", "Answer": 4.0}]
    task = questions(
        tmp_path, rows, question=("Body", "Question"), answer="Answer", grading="number"
    )
    (item,) = task.items()
    assert item == Item("Dan has 4. How many?", "4.0") and task.grade(item, "He has 4.") == 1.0
    assert list(task.texts()) == ["Dan has 4. How many?", "Dan has 4. How many? 4.0"]


def test_an_answer_without_a_number_is_told_before_anything_is_asked(tmp_path):
    with pytest.raises(
        ValueError,
        match="tasks.sums.grading=number: the answer of record 2 of .* has no number; choose grading=text",
    ):
        questions(
            tmp_path, [GSM8K[0], {"question": "Who?", "answer": "Ann"}], grading="number"
        ).items()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "t.model"
    SentencePiece(vocab_size=330, model="bpe").train(
        [" ".join(row.values()) for row in GSM8K], path
    )
    return Tokenizer(path)


def test_examples_stand_before_the_question_as_text_or_as_turns(tokenizer):
    shot, item = Item("1+1?", "2"), Item("2+2?", "4")
    text = asked_in_text(item, [shot], tokenizer)
    assert (
        tokenizer.decode(text.prompt) == "Question: 1+1?\nAnswer: 2\n\nQuestion: 2+2?\nAnswer:"
        and text.prompt[0] == tokenizer.bos
    )
    assert tokenizer.decode(text.gold) == " 4"
    chat, roles = asked_in_chat(item, [shot], Roles(tokenizer)), tokenizer.roles
    marks = [i for i in chat.prompt if i in roles.values()]
    assert (
        marks == [roles["user"], roles["assistant"], roles["user"], roles["assistant"]]
        and chat.prompt[-1] == roles["assistant"]
    )
    assert tokenizer.decode(chat.prompt) == "1+1?22+2?" and tokenizer.decode(chat.gold) == "4"
    assert answer_in(" 4\n\nQuestion: 3+3?\nAnswer: 6") == "4"
    n = len(text.prompt)
    assert (
        text.fits(n + 5, 5) and not text.fits(n + 4, 5) and not text.fits(n + len(text.gold) - 1, 1)
    )


def test_the_targets_of_a_row_are_the_right_answer_and_the_rest_is_padding(tokenizer):
    asked = asked_in_text(Item("2+2?", "4 of them"), [], tokenizer)
    n_prompt, n = len(asked.prompt), len(asked.prompt) + len(asked.gold)
    rows = gold_rows([asked], (2, n + 3))
    assert {name.replace("_L", "_BL") for name in rows} == set(TokenBatch._fields)
    assert rows["tokens_L"][0, : n - 1].tolist() == [*asked.prompt, *asked.gold][:-1]
    targets = rows["weight_L"][0] > 0
    assert rows["targets_L"][0][targets].tolist() == asked.gold and targets.argmax() == n_prompt - 1
    assert all(not x[1].any() and not x[0, n - 1 :].any() for x in rows.values())


def test_an_imported_model_is_asked_in_its_own_format(tmp_path):
    tokenizer = with_template(STYLES["inst"], tmp_path)
    asked = asked_in_chat(Item("2+2?", "4"), [Item("1+1?", "2")], chat_format_of(tokenizer))
    shown = "<s>[INST] 1+1? [/INST] 2 </s><s>[INST] 2+2? [/INST]"
    assert tokenizer.decode(asked.prompt) == shown.replace("<s>", "").replace("</s>", "")
    assert [i for i in asked.prompt if i < 2] == [tokenizer.bos, tokenizer.eos, tokenizer.bos]
    assert tokenizer.decode(asked.gold) == " 4 " and tokenizer.eos not in asked.gold
