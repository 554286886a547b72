"""One long text, as it is: no line is joined, no space taken away."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, Field

from data_pipeline.documents.document import Document, content_id
from data_pipeline.documents.drops import Drops
from data_pipeline.readers.book_files import read_book
from data_pipeline.readers.folder import files_under
from data_pipeline.readers.part import Part

SUFFIXES = (".txt", ".txt.gz")


class TextFile(BaseModel, frozen=True, extra="forbid", strict=True):
    """A .txt or .txt.gz file cut into pieces of equal length: what is trained on and what is held out may
    be of one text.

    Attributes:
        path: The file.
        pieces: Into how many; each is a document, and a group of its own. Piece i of n begins at letter i ·
        length // n.
    """

    VERSION: ClassVar[int] = 1

    path: str
    pieces: int = Field(ge=2)

    def parts(self, source: str, *, work: Path) -> list[Part]:
        """The file.

        Raises:
            FileNotFoundError: It does not exist.
        """
        files = files_under(self.path, SUFFIXES, field=f"sources.{source}.path")
        if len(files) > 1:
            raise ValueError(
                f"sources.{source}.path={self.path!r} holds {len(files)} texts; "
                "name one file, or read them with Books"
            )
        return [Part("00000", (files[0].path,), files[0].name)]

    def read(self, part: Part, source: str, *, work: Path, drops: Drops) -> Iterator[Document]:
        """Piece after piece, each named FILE#NUMBER."""
        content = read_book(part.inputs[0], part.detail, work, source, drops)
        if content is None:
            return
        # Integer division spreads the remainder, so pieces differ by one letter at most and nothing is
        # lost.
        cuts = [i * len(content.text) // self.pieces for i in range(self.pieces + 1)]
        for i, (start, stop) in enumerate(zip(cuts, cuts[1:], strict=False)):
            text, name = content.text[start:stop], f"{part.detail}#{i:03d}"
            yield Document(content_id(text), text, source, name, name)
