"""The contract of a reader: a source in parts, each read alone by one process, in an order that the input
alone decides.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops


class Part(NamedTuple):
    """What one task reads: a WARC file, a folder of small files; plain strings, so that it travels to any
    process.

    Attributes:
        name: Unique within the source; parts are ordered by it.
        inputs: The raw files it is read from, paths or URLs: their hashes are the lineage of its documents.
        detail: What else its reader must know.
    """

    name: str
    inputs: tuple[str, ...]
    # A string and not a record of its own: tasks travel through daft and Ray as plain tables.
    detail: str = ""


@runtime_checkable
class Reader(Protocol):
    """A frozen component. What it yields depends on its fields and the input alone, never on the process or
    what was read before.

    One that reads the running Python's own library has a method `fingerprint() -> str`, its version.

    Attributes:
        VERSION: Raised when the same fields and input give other documents: what was read is found again by
        it.
    """

    VERSION: ClassVar[int]

    def parts(self, source: str, *, work: Path) -> list[Part]:
        """The parts of the source in their order; looks at names and sizes, reads no content.

        Raises:
            FileNotFoundError, ValueError: nothing is there to read; one sentence with field, value, rule
            and remedy.
        """
        ...

    def read(self, part: Part, source: str, *, work: Path, drops: Drops) -> Iterator[Document]:
        """The documents of one part; a damaged, empty or undecodable record is counted in `drops` with its
        place, and skipped.
        """
        ...


def read_all(
    reader: Reader, source: str, *, work: Path, drops: Drops | None = None
) -> Iterator[Document]:
    """Every document of a source, part by part."""
    drops = Drops() if drops is None else drops
    for part in reader.parts(source, work=work):
        yield from reader.read(part, source, work=work, drops=drops)
