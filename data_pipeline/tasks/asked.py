"""Questions of a task as tokens: in a conversation, or as a text to be continued."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from data_pipeline.batch import TokenBatch
from data_pipeline.chat.render import prompt as chat_prompt
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
        return len(self.prompt) + max(max_tokens, len(self.gold)) <= context


def asked_in_chat(item: Item, shots: Sequence[Item], tokenizer: Tokenizer) -> Asked:
    """A user asks; the examples are turns before."""
    turns = [(("user", shot.prompt), ("assistant", shot.answer)) for shot in shots]
    messages = [
        {"role": role, "content": text} for role, text in (*chain.from_iterable(turns), ("user", item.prompt))
    ]
    return Asked(item, chat_prompt(messages, tokenizer), tokenizer.encode(item.answer))


def asked_in_text(item: Item, shots: Sequence[Item], tokenizer: Tokenizer) -> Asked:
    """The examples stand before, question by question."""
    before = "".join(f"{ASKED} {shot.prompt}\n{ANSWERED} {shot.answer}\n\n" for shot in shots)
    prompt = [tokenizer.bos, *tokenizer.encode(f"{before}{ASKED} {item.prompt}\n{ANSWERED}")]
    return Asked(item, prompt, tokenizer.encode(f" {item.answer}"))


def answer_in(text: str) -> str:
    """What was written up to the next question that a model goes on with."""
    return text.partition(ASKED)[0].strip()


def gold_rows(questions: Sequence[Asked], shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Fields of a batch [rows, positions]: a question a row, its right answer being the targets; rows
    beyond are padding.
    """
    rows = {
        name.replace("_B", "_"): np.zeros(shape, np.float32 if name == "weight_BL" else np.int32)
        for name in TokenBatch._fields
    }
    for b, (_, prompt, gold) in enumerate(questions):
        tokens, n = [*prompt, *gold], len(prompt) + len(gold) - 1
        rows["tokens_L"][b, :n], rows["targets_L"][b, :n] = tokens[:-1], tokens[1:]
        rows["positions_L"][b, :n], rows["segments_L"][b, :n] = np.arange(n), 1
        rows["weight_L"][b, len(prompt) - 1 : n] = 1
    return rows
