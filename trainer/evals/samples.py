"""Sample texts that a model generates, for people to read."""

from collections.abc import Callable

import jax
from pydantic import BaseModel, PositiveInt

from data_pipeline.chat.format import chat_format_of
from inference.decode import generate
from inference.sample import Greedy
from inference.text import prompt_ids, what_ends
from model.api import Params
from trainer.evals.subject import Findings, Subject
from trainer.objective import Policies
from trainer.run import Run


class Samples(BaseModel, frozen=True, extra="forbid", strict=True):
    """Greedy continuations of some prompts, or answers to them as a user's turn when `chat`."""

    prompts: tuple[str, ...]
    chat: bool
    max_tokens: PositiveInt

    def problems(self, run: Run) -> list[str]:
        """Rules between this and the run that it evaluates."""
        return []

    def open(self, subject: Subject, first: Callable[[], Policies]) -> Callable[[Params], Findings]:
        """Encode the prompts in the format in which the model is served; returns the evaluation."""
        tokenizer = subject.tokenizer
        chat = chat_format_of(tokenizer) if self.chat else None
        prompts = [prompt_ids(prompt, tokenizer, chat) for prompt in self.prompts]
        # the stop tokens of serving, so that samples show what a user would see
        ends = what_ends(tokenizer, chat)

        def measure(params: Params) -> Findings:
            # Texts grow together, so that the bar shows that something is done, and for how long.
            with subject.progress("    samples", len(prompts), unit="texts") as advance:
                answers = generate(
                    subject.model,
                    params,
                    prompts,
                    sampler=Greedy(),
                    key=jax.random.key(0),  # greedy tokens use no randomness
                    context=subject.context,
                    max_tokens=self.max_tokens,
                    **ends,
                )
                advance(len(prompts))
            rows = []
            # the prompt as in the config, not as rendered by the chat format
            for prompt, ids in zip(self.prompts, answers, strict=True):
                text = chat.parse(ids).text if chat else tokenizer.decode(ids)
                # The last of as many tokens as are allowed may end within a character, which is no text.
                if len(ids) == self.max_tokens:
                    text = text.removesuffix("\ufffd")
                rows.append({"prompt": prompt, "text": text})
            return Findings({}, rows)

        return measure
