"""Text of evaluation tasks in the corpus: found by runs of words, dropped or cut."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, BaseModel, Field, NonNegativeInt, PositiveInt

from data_pipeline.clean.dedup import require_most_left
from data_pipeline.clean.protected import protected
from data_pipeline.clean.rule import Limit, Signals
from data_pipeline.component import one_of
from data_pipeline.documents.document import Document
from data_pipeline.engine import tables
from data_pipeline.tasks.task import Task

N_WORDS = 13  # GPT-3's runs (Brown et al. 2020, C)
PLACES = ("ngram", "start", "end", "held")
BATCH_TEXTS = 1000


def different(tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    """The tasks, when no two have one name."""
    names = [task.name for task in tasks]
    if len({*names}) < len(names):
        raise ValueError(f"tasks are named {', '.join(names)}; give each a name of its own")
    return tasks


class Decontaminate(BaseModel, frozen=True, extra="forbid", strict=True):
    """Takes out documents, or the words, that share a run of 13 words with an evaluation task (Brown et al.
    2020, C).

    A text of a task with 8 to 12 words is looked for whole, anywhere; a shorter one as a line by itself. A
    run in more than `max_documents` documents is common language, and stays, unless its document holds four
    fifths of the words of a task's text: a question that many pages copied is a question. Every hit is
    recorded, of common language too, by its key: no text of a task is written down.

    Attributes:
        sources: The sources that are searched.
        tasks: What is protected.
        action: `drop` the document, or `cut` the words.
        max_removed_frac: More of the documents hit is an error.
        n_words: Of a run.
        max_documents: Runs that more documents have are ignored, but for those of a text held whole.
    """

    VERSION: ClassVar[int] = 2

    sources: tuple[str, ...]
    tasks: Annotated[tuple[one_of("data_pipeline.tasks"), ...], AfterValidator(different)]
    action: Literal["drop", "cut"]
    max_removed_frac: float = Field(gt=0, le=1)
    n_words: PositiveInt = N_WORDS
    max_documents: NonNegativeInt = 10

    LATE: ClassVar[frozenset[str]] = frozenset({"action", "max_documents", "max_removed_frac"})
    EDITS: ClassVar[bool] = False
    REASON: ClassVar[str] = "contaminated"

    def pieces(self) -> tuple["Decontaminate", ...]:
        """The rule for each task alone; their signals together are those of the whole, so that a task that
        is added is looked for alone.
        """
        return tuple(self.model_copy(update={"tasks": (task,)}) for task in self.tasks)

    def fingerprint(self) -> str:
        """Hex digits that change with any text of the tasks."""
        return hashlib.sha256(
            " ".join(task.fingerprint() for task in self.tasks).encode()
        ).hexdigest()[:16]

    def annotate(self, documents: list[Document]) -> tuple[list[Document], Signals]:
        """For each task `TASK_ngram`, `TASK_start`, `TASK_end`, `TASK_held`: lists of the keys and places of
        its hits, and whether each is of a text held whole, in the order of the text.
        """
        # Read once a process: the tasks' texts are hashed, and documents are compared with the hashes
        # alone.
        index = protected(self.tasks, n_words=self.n_words)
        all_hits = index.hits([document.text for document in documents])
        signals: Signals = {}
        for task, keys, texts in zip(self.tasks, index.tasks, index.texts, strict=True):
            hits = all_hits.where(keys.having(all_hits.ngram))
            # Hits come in the order of the texts, so these are the places where one document's hits end.
            bounds = np.searchsorted(hits.text, np.arange(1, len(documents)))
            columns = (hits.ngram, hits.start, hits.end, texts.held(hits))
            for place, values in zip(PLACES, columns, strict=True):
                by_document = np.split(values, bounds)[: len(documents)]
                signals[f"{task.name}_{place}"] = by_document
        return documents, signals

    def limits(self) -> tuple[Limit, ...]:
        """None: what is common language is known when all documents are searched."""
        return ()

    def resolve(self, keys: Sequence[Path], out: Path) -> None:
        """Verdicts: `document`, `task`, `ngram`, `start`, `end`, `held` of every hit, `n_documents` that have
        the n-gram.

        Raises:
            ValueError: more than `max_removed_frac` of the documents have one that is not common.
        """
        hits = pa.concat_tables(
            [hits_of(task.name, keys) for task in self.tasks] or [hits_of("", ())]
        )
        # One order whatever files the keys came in, so that the verdicts are the same bytes.
        hits = hits.sort_by(
            [(name, "ascending") for name in (tables.DOCUMENT, "start", "end", "task")]
        )
        rare = self._counts({name: hits[name].to_numpy() for name in ("n_documents", "held")})
        require_most_left(
            self,
            len(np.unique(hits[tables.DOCUMENT].to_numpy()[rare])),
            tables.n_rows(keys),
            "documents",
        )
        tables.write_table(out, hits)

    def dropped(self, verdicts: Mapping[str, np.ndarray]) -> np.ndarray:
        """Documents with a hit that is not common language, unless those are cut."""
        rare = self._counts(verdicts) & (self.action == "drop")
        return np.unique(verdicts[tables.DOCUMENT][rare])

    def _counts(self, verdicts: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which hits are not common language."""
        return (verdicts["n_documents"] <= self.max_documents) | verdicts["held"]

    def spans(
        self, document: Document, verdicts: Mapping[str, np.ndarray]
    ) -> list[tuple[int, int]]:
        """The places of its hits that are not common language, where those are cut."""
        rare = self._counts(verdicts) & (self.action == "cut")
        return list(
            zip(verdicts["start"][rare].tolist(), verdicts["end"][rare].tolist(), strict=True)
        )


def hits_of(task: str, keys: Sequence[Path]) -> pa.Table:
    """The hits of one task in all documents, with the number of documents that have each n-gram."""
    schema = pa.schema(
        [
            (tables.DOCUMENT, pa.int64()),
            ("task", pa.string()),
            ("ngram", pa.uint64()),
            ("start", pa.int64()),
            ("end", pa.int64()),
        ]
        + [("held", pa.bool_()), ("n_documents", pa.int64())]
    )
    names = [f"{task}_{place}" for place in PLACES]
    # How many documents have each n-gram, over the whole corpus: only then is common language known.
    counts = tables.shared(keys, names[0], more_than=0) if keys else None
    batches_of_hits = []
    for batch in tables.batches(keys, *names):
        document, _, ngram = tables.flat(batch, names[0])
        start, end, held = (tables.flat(batch, name)[2] for name in names[1:])
        # Every n-gram is in the table, for it was counted from these same keys.
        n_documents = counts.n_documents[counts.find(ngram)[1]]
        batches_of_hits.append(
            pa.table(
                [document, pa.repeat(task, len(document)), ngram, start, end, held, n_documents],
                schema=schema,
            )
        )
    return pa.concat_tables([schema.empty_table(), *batches_of_hits])


class Hit(NamedTuple):
    """Words of a task in a text; the words themselves are not kept, so that no log gives an answer away.

    Attributes:
        text: Number of the text.
        ngram: Key of the words.
        start: In characters of the text.
        end: After the last character.
    """

    text: int
    ngram: int
    start: int
    end: int


def recheck(texts: Iterable[str], task: Task, *, n_words: int = N_WORDS) -> Iterator[Hit]:
    """What finished data shares with a task that was not known when it was made; texts are read BATCH_TEXTS
    at a time.
    """
    index = protected((task,), n_words=n_words)
    for n_before, batch in enumerate(itertools.batched(texts, BATCH_TEXTS)):
        for text, *place in zip(*(values.tolist() for values in index.hits(batch)), strict=True):
            yield Hit(BATCH_TEXTS * n_before + text, *place)
