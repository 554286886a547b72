"""A tokenizer that another corpus was made with."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from data_pipeline.component import PathText
from data_pipeline.files import write_bytes
from data_pipeline.tokenizers.tokenizer import Tokenizer


class TrainedTokenizer(BaseModel, frozen=True, extra="forbid", strict=True):
    """The tokenizer.model of a finished data phase, for a corpus that the same model shall read; `path` is
    that file.
    """

    VERSION: ClassVar[int] = 1

    path: PathText

    def fingerprint(self) -> str:
        """SHA-256 of the file; "" while it is not there yet, as when a phase before makes it."""
        file = Path(self.path)
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""

    def make(
        self, sources: Mapping[str, Iterable[str]], path: Path, *, weights: Mapping[str, float]
    ) -> None:
        """Copy it; the texts are not read.

        Raises:
            FileNotFoundError: there is no such file. ValueError: it is no tokenizer.
        """
        if not Path(self.path).is_file():
            remedy = "name the tokenizer.model of a finished data phase"
            raise FileNotFoundError(f"tokenizer.path={self.path!r} does not exist; {remedy}")
        Tokenizer(self.path)  # refuses what is no tokenizer, before anything is written
        write_bytes(path, Path(self.path).read_bytes())
