"""Evaluation on tasks: the model answers questions during training, and its answers are graded."""

from collections.abc import Callable
from itertools import batched
from typing import Annotated

import jax
import numpy as np
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt

from data_pipeline.chat.format import ChatFormat, chat_format_of
from data_pipeline.component import one_of
from data_pipeline.tasks.asked import Asked, answer_in, asked_in_chat, asked_in_text
from data_pipeline.tasks.task import Task
from inference.decode import generate
from inference.sample import Greedy
from inference.text import what_ends
from model.api import Params
from trainer.evals.answer_loss import answer_loss
from trainer.evals.subject import Findings, Subject
from trainer.objective import Policies
from trainer.run import Run

ROWS = 64  # answered at a time: bounds the cache of keys and values


class TaskEval(BaseModel, frozen=True, extra="forbid", strict=True):
    """Greedy answers of the present policy: NAME/accuracy (mean grade), and NAME/answer_loss (nats a token
    of the right answers).

    Attributes:
        tasks: What is asked.
        questions: How many of each task, spread evenly over its data. Those that do not fit into the model's
            context are left out; NAME/questions tells how many were asked.
        shots: How many examples precede each question: the first ones of the data, which are not asked.
        max_tokens: Most tokens of an answer.
        chat: Ask as a user in a conversation, in the format in which the model is served; otherwise in a text
            to be continued.
    """

    tasks: Annotated[tuple[one_of("data_pipeline.tasks"), ...], Field(min_length=1)]
    questions: PositiveInt
    shots: NonNegativeInt
    max_tokens: PositiveInt
    chat: bool

    def problems(self, run: Run) -> list[str]:
        """Rules between this and the run that it evaluates."""
        problems = []
        names = []
        for each in run.evals:
            if isinstance(each, TaskEval):
                names += [task.name for task in each.tasks]
        # Two under one name would write the same metric twice in a row.
        twice = sorted(task.name for task in self.tasks if names.count(task.name) > 1)
        if twice:
            problems.append(f"evals: two tasks are named {twice[0]}; give one of them another name")
        context = run.architecture.context
        if self.max_tokens >= context:
            rule = f"leaves no room in architecture.context={context}"
            problems.append(f"evals: max_tokens={self.max_tokens} {rule}; lower it")
        return problems

    def open(self, subject: Subject, first: Callable[[], Policies]) -> Callable[[Params], Findings]:
        """Read the tasks and encode their questions; returns the evaluation."""
        tokenizer = subject.tokenizer
        chat = chat_format_of(tokenizer) if self.chat else None
        asked = {task: self._asked(task, subject, chat) for task in self.tasks}
        ends = what_ends(tokenizer, chat)

        # in batches of `ROWS`; the last one is smaller, which costs one more compilation
        def answers(
            params: Params, questions: list[Asked], advance: Callable[..., None]
        ) -> list[str]:
            texts = []
            for batch in batched(questions, ROWS):
                rows = generate(
                    subject.model,
                    params,
                    [each.prompt for each in batch],
                    sampler=Greedy(),
                    key=jax.random.key(0),  # greedy tokens use no randomness
                    context=subject.context,
                    max_tokens=self.max_tokens,
                    **ends,
                )
                for ids in rows:
                    # a plain text may continue after the answer, while a chat message ends with it
                    text = chat.parse(ids).text if chat else answer_in(tokenizer.decode(ids))
                    texts.append(text)
                advance(len(batch))
            return texts

        def measure(params: Params) -> Findings:
            numbers: dict[str, float] = {}
            texts = []
            for task, questions in asked.items():
                # The loss of the answers comes after them, under the full bar.
                with subject.progress(
                    f"    ask {task.name}", len(questions), unit="questions"
                ) as bar:
                    said = answers(params, questions, bar)
                    loss = answer_loss(subject.model, params, questions, subject.mesh, rows=ROWS)
                grades = []
                for question, text in zip(questions, said, strict=True):
                    grades.append(task.grade(question.item, text))
                # Grades may be fractions: a task decides what half an answer is worth.
                numbers[f"{task.name}/accuracy"] = float(np.mean(grades))
                numbers[f"{task.name}/answer_loss"] = loss
                numbers[f"{task.name}/questions"] = float(len(questions))
                # one answer of each task is kept for people to read
                texts.append({"prompt": questions[0].item.prompt, "text": said[0]})
            return Findings(numbers, texts)

        return measure

    def _asked(self, task: Task, subject: Subject, chat: ChatFormat | None) -> list[Asked]:
        """The chosen questions of a task that fit into the context.

        Raises:
            ValueError: none fits.
        """
        items = task.items()
        shots = items[: self.shots]
        # Examples are not asked, as the prompt contains their answers.
        rest = items[self.shots :]
        # evenly spread: files are often sorted by kind or difficulty
        n_chosen = min(self.questions, len(rest))
        chosen = [rest[i * len(rest) // n_chosen] for i in range(n_chosen)]
        if chat is None:
            asked = [asked_in_text(item, shots, subject.tokenizer) for item in chosen]
        else:
            asked = [asked_in_chat(item, shots, chat) for item in chosen]
        fitting = [each for each in asked if each.fits(subject.context, self.max_tokens)]
        if not fitting:
            what = f"no question of {task.name} fits"
            with_what = f"with {self.shots} examples and max_tokens={self.max_tokens}"
            where = f"into architecture.context={subject.context}"
            remedy = "lower shots or max_tokens"
            raise ValueError(f"evals: {what} {with_what} {where}; {remedy}")
        return fitting
