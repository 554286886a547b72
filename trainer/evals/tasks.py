"""Answers to the questions of a task, graded, while training goes on."""

from collections.abc import Callable
from functools import partial
from itertools import batched, chain
from typing import Annotated, Any

import jax
import numpy as np
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt

from data_pipeline.component import one_of
from data_pipeline.tasks.asked import Asked, answer_in, asked_in_chat, asked_in_text
from inference.decode import generate, text_ids
from inference.sample import Greedy
from model.api import Params
from trainer.evals.answer_loss import answer_loss
from trainer.evals.subject import Findings, Subject

ROWS = 64  # answered at a time: bounds the cache of keys and values


class TaskEval(BaseModel, frozen=True, extra="forbid", strict=True):
    """Greedy answers of the present policy: NAME/accuracy (mean grade), and NAME/answer_loss (nats a token
    of the right answers).

    Attributes:
        tasks: What is asked.
        questions: Of each task, spread evenly over its data. Those that do not fit into the model's context
        are left out; NAME/questions
            says how many were asked.
        shots: Examples before each question: the first ones of the data, which are not asked.
        max_tokens: Of an answer.
        chat: Ask as a user in a conversation, else in a text to be continued.
    """

    tasks: Annotated[tuple[one_of("data_pipeline.tasks"), ...], Field(min_length=1)]
    questions: PositiveInt
    shots: NonNegativeInt
    max_tokens: PositiveInt
    chat: bool

    def problems(self, run: Any) -> list[str]:
        """Rules between this and the run that it evaluates."""
        found, names = (
            [],
            [task.name for each in run.evals if isinstance(each, TaskEval) for task in each.tasks],
        )
        if twice := sorted({task.name for task in self.tasks if names.count(task.name) > 1}):
            found.append(f"evals: two tasks are named {twice[0]}; give one of them another name")
        if self.max_tokens >= run.architecture.context:
            found.append(
                f"evals: max_tokens={self.max_tokens} leaves no room in architecture.context={run.architecture.context}; lower it"
            )
        return found

    def open(self, subject: Subject, start: Callable[[], Params]) -> Callable[[Params], Findings]:
        """Read the tasks and encode what is asked."""
        asked, t = {task: self._asked(task, subject) for task in self.tasks}, subject.tokenizer
        stop_ids = (t.eos, t.end_of_turn)
        limits = {
            "context": subject.context,
            "max_tokens": self.max_tokens,
            "stop_ids": stop_ids,
            "allowed_V": text_ids(t, stop_ids),
        }
        write = partial(generate, subject.model, sampler=Greedy(), key=jax.random.key(0), **limits)

        def answers(params: Params, questions: list[Asked]) -> list[str]:
            written = [write(params, [each.prompt for each in part]) for part in batched(questions, ROWS)]
            texts = map(t.decode, chain.from_iterable(written))
            return list(texts if self.chat else map(answer_in, texts))

        def measure(params: Params) -> Findings:
            numbers, texts = {}, []
            for task, questions in asked.items():
                said = answers(params, questions)
                grades = [task.grade(each.item, text) for each, text in zip(questions, said, strict=True)]
                loss = answer_loss(subject.model, params, questions, subject.mesh, rows=ROWS)
                found = {
                    "accuracy": float(np.mean(grades)),
                    "answer_loss": loss,
                    "questions": float(len(questions)),
                }
                numbers |= {f"{task.name}/{name}": value for name, value in found.items()}
                texts.append({"prompt": questions[0].item.prompt, "text": said[0]})
            return Findings(numbers, texts)

        return measure

    def _asked(self, task: Any, subject: Subject) -> list[Asked]:
        """Those of the chosen questions that fit."""
        items = task.items()
        shots, rest = items[: self.shots], items[self.shots :]
        chosen = (
            [rest[i * len(rest) // self.questions] for i in range(self.questions)]
            if self.questions < len(rest)
            else rest
        )
        encoded = asked_in_chat if self.chat else asked_in_text
        found = [encoded(item, shots, subject.tokenizer) for item in chosen]
        fitting = [asked for asked in found if asked.fits(subject.context, self.max_tokens)]
        if not fitting:
            what = (
                f"no question of {task.name} fits with {self.shots} examples and max_tokens={self.max_tokens}"
            )
            raise ValueError(
                f"evals: {what} into architecture.context={subject.context}; lower shots or max_tokens"
            )
        return fitting
