"""Texts that a model writes, for people to look at."""

from collections.abc import Callable
from typing import Any

import jax
from pydantic import BaseModel, PositiveInt

from data_pipeline.chat.render import prompt as chat_prompt
from inference.decode import generate, text_ids
from inference.sample import Greedy
from model.api import Params
from trainer.evals.subject import Findings, Subject


class Samples(BaseModel, frozen=True, extra="forbid", strict=True):
    """Greedy continuations of some prompts, or answers to them as a user's turn when `chat`."""

    prompts: tuple[str, ...]
    chat: bool
    max_tokens: PositiveInt

    def problems(self, run: Any) -> list[str]:
        """Rules between this and the run that it evaluates."""
        return []

    def open(self, subject: Subject, start: Callable[[], Params]) -> Callable[[Params], Findings]:
        """Encode the prompts."""
        t = subject.tokenizer
        asked = [
            chat_prompt([{"role": "user", "content": p}], t) if self.chat else [t.bos, *t.encode(p)]
            for p in self.prompts
        ]
        stop_ids = (t.eos, t.end_of_turn)
        limits = {
            "context": subject.context,
            "max_tokens": self.max_tokens,
            "stop_ids": stop_ids,
            "allowed_V": text_ids(t, stop_ids),
        }

        def measure(params: Params) -> Findings:
            answers = generate(
                subject.model, params, asked, sampler=Greedy(), key=jax.random.key(0), **limits
            )
            return Findings(
                {}, [{"prompt": p, "text": t.decode(a)} for p, a in zip(self.prompts, answers, strict=True)]
            )

        return measure
