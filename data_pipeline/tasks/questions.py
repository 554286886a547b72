"""An evaluation task in a file of JSON records (GSM8K, SVAMP and the like), and how its answers are
graded: by their final number, as GSM8K is, or by their text.
"""

import functools
import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from data_pipeline.component import PathText
from data_pipeline.tasks.task import Item

# A minus right after a word or a digit is no sign: 7-5.
NUMBER = r"(?:(?<![\w)])-)?\$?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"


class Questions(BaseModel, frozen=True, extra="forbid", strict=True):
    """Questions and answers, one JSON object a line or one array of objects; a path that ends in .gz is
    decompressed.

    Attributes:
        name: Of the task.
        path: The file.
        question: Fields that make up the question, in order.
        answer: Field of the answer.
        grading: By the answer's final number, or by all of its text.
    """

    VERSION: ClassVar[int] = 1

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    path: PathText
    question: Annotated[tuple[str, ...], Field(min_length=1)]
    answer: str
    grading: Literal["number", "text"] = "text"

    def texts(self) -> Iterator[str]:
        """Each question, alone and with its answer.

        Raises:
            OSError, ValueError: no such file, not JSON, or a record without one of the fields.
        """
        for item in self._items():
            yield item.prompt
            yield f"{item.prompt} {item.answer}"

    def items(self) -> list[Item]:
        """The questions and their answers.

        Raises:
            OSError, ValueError: as in `texts`, or an answer has no number to be graded by.
        """
        items = list(self._items())
        if self.grading == "number":
            # Checked now: when the question is asked, training may have run for days.
            for number, item in enumerate(items, 1):
                if final_number(item.answer) is None:
                    what = f"the answer of record {number} of {self.path} has no number"
                    remedy = "choose grading=text, or mend it"
                    raise ValueError(f"tasks.{self.name}.grading=number: {what}; {remedy}")
        return items

    def grade(self, item: Item, answer: str) -> float:
        """1 for a right answer, else 0."""
        same = {"number": same_number, "text": same_text}[self.grading]
        return float(same(answer, item.answer))

    def _items(self) -> Iterator[Item]:
        fields = (*self.question, self.answer)
        for number, record in enumerate(self._records(), 1):
            present = record if isinstance(record, dict) else {}
            missing = [name for name in fields if name not in present]
            if missing:
                what = f"record {number} of {self.path} has no field {missing[0]!r}"
                raise ValueError(f"tasks.{self.name}: {what}; give one that all have")
            question = " ".join(str(record[name]) for name in self.question)
            yield Item(question, str(record[self.answer]))

    def fingerprint(self) -> str:
        """Of the file's content and the fields that are read."""
        # With the fields: others of the same file would give other texts.
        read = json.dumps(
            [self.VERSION, _sha256(self.path, *self._version()), self.question, self.answer]
        )
        return hashlib.sha256(read.encode()).hexdigest()[:16]

    def _version(self) -> tuple[int, int]:
        """Size and time of the last change."""
        try:
            status = Path(self.path).stat()
        except OSError as error:
            what = f"tasks.{self.name}.path={self.path}: {error.strerror}"
            raise FileNotFoundError(f"{what}; give a file of JSON records") from error
        return status.st_size, status.st_mtime_ns

    def _records(self) -> list[Any]:
        self._version()  # says in a sentence that there is no such file
        try:
            text = _bytes(self.path).decode()
            # One array; lines of JSON would begin with a brace.
            if text.lstrip().startswith("["):
                return json.loads(text)
            # Not splitlines(): JSON may have other line breaks, such as U+2028, inside of strings.
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        except (ValueError, EOFError, gzip.BadGzipFile) as error:
            what = f"tasks.{self.name}.path={self.path} is not a file of JSON records ({error})"
            raise ValueError(f"{what}; give one") from error


def same_number(answer: str, wanted: str) -> bool:
    """Whether the final numbers are equal in value. lm-evaluation-harness compares their digits: there 18.0
    is not 18.
    """
    number = final_number(answer)
    return number is not None and number == final_number(wanted)


def final_number(text: str) -> Decimal | None:
    """What stands behind the first `####`, GSM8K's mark, else the last number: strict-match and
    flexible-extract of that harness.
    """
    text = text.replace("−", "-")  # U+2212, which models that write typography use
    # The first mark, because a model that goes on often writes another question with its own answer.
    marked = re.search(rf"####\s*({NUMBER})", text)
    numbers = [marked[1]] if marked else re.findall(NUMBER, text)
    return Decimal(re.sub("[$,]", "", numbers[-1])) if numbers else None


def same_text(answer: str, wanted: str) -> bool:
    """Whether the texts are equal but for capitals, white space and a full stop at the end."""
    return _plain(answer) == _plain(wanted)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".")


def _bytes(path: str) -> bytes:
    data = Path(path).read_bytes()
    return gzip.decompress(data) if path.endswith(".gz") else data


# Cached, because it is asked for with every batch; size and time tell when the file has changed.
@functools.lru_cache(maxsize=256)
def _sha256(path: str, n_bytes: int, mtime_ns: int) -> str:
    return hashlib.sha256(_bytes(path)).hexdigest()
