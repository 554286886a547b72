"""Questions of a task as tokens: in a conversation, or as a text to be continued."""

from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from data_pipeline.batch import TokenBatch
from data_pipeline.chat.format import ChatFormat
from data_pipeline.chat.message import text_message
from data_pipeline.tasks.task import Item
from data_pipeline.tokenizers.tokenizer import Tokenizer

ASKED, ANSWERED = "Question:", "Answer:"  # as lm-evaluation-harness asks GSM8K


class Asked(NamedTuple):
    """Tokens up to the answer, and those of the right one."""

    item: Item
    prompt: list[int]
    gold: list[int]

    def fits(self, context: int, max_tokens: int) -> bool:
        """Whether an answer of `max_tokens`, and the right one, have room."""
        # Each follows the prompt in a row of its own: the model writes one, its loss is taken of the other.
        return len(self.prompt) + max(max_tokens, len(self.gold)) <= context


def asked_in_chat(item: Item, shots: Sequence[Item], chat: ChatFormat) -> Asked:
    """A user asks in the model's own chat format; the examples are turns before."""
    messages = []
    for shot in shots:
        messages += [text_message("user", shot.prompt), text_message("assistant", shot.answer)]
    messages.append(text_message("user", item.prompt))
    prompt = chat.prompt(messages)
    answer = chat.render([*messages, text_message("assistant", item.answer)]).tokens[len(prompt) :]
    # Without the piece that ends the answer: stopping is not graded here.
    gold = takewhile(lambda i: i not in chat.stop_ids, answer.tolist())
    return Asked(item, prompt, list(gold))


def asked_in_text(item: Item, shots: Sequence[Item], tokenizer: Tokenizer) -> Asked:
    """The examples stand before, question by question."""
    before = "".join(f"{ASKED} {shot.prompt}\n{ANSWERED} {shot.answer}\n\n" for shot in shots)
    prompt = [tokenizer.bos, *tokenizer.encode(f"{before}{ASKED} {item.prompt}\n{ANSWERED}")]
    # With the space before it, which tokenizers join with the word.
    return Asked(item, prompt, tokenizer.encode(f" {item.answer}"))


def answer_in(text: str) -> str:
    """What was written up to the next question that a model goes on with."""
    # A model that was not trained on chats goes on as the examples do: with the next question.
    return text.partition(ASKED)[0].strip()


def gold_rows(questions: Sequence[Asked], shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Fields of a batch [rows, positions]: a question a row, its right answer being the targets; rows
    beyond are padding.
    """
    rows = {}
    for name in TokenBatch._fields:
        dtype = np.float32 if name == "weight_BL" else np.int32
        rows[name.replace("_B", "_")] = np.zeros(shape, dtype)
    for b, (_, prompt, gold) in enumerate(questions):
        # One document a row: segment 1, positions from 0.
        tokens = [*prompt, *gold]
        n = len(tokens) - 1  # the last token is a target alone
        rows["tokens_L"][b, :n] = tokens[:-1]
        rows["targets_L"][b, :n] = tokens[1:]
        rows["positions_L"][b, :n] = np.arange(n)
        rows["segments_L"][b, :n] = 1
        # From the last token of the prompt on, which predicts the first of the answer.
        rows["weight_L"][b, len(prompt) - 1 : n] = 1
    return rows
