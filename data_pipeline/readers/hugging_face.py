"""Documents from a Hugging Face dataset on disk: as `save_to_disk` writes it (Arrow streams), or as it lies
on the hub (Parquet).
"""

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from data_pipeline.documents.columns import Columns
from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops
from data_pipeline.readers.dataset_card import patterns
from data_pipeline.readers.folder import File, files_of, files_under, part_of
from data_pipeline.readers.parquet import parquet_documents, parquet_parts, require_columns
from data_pipeline.readers.part import Part
from data_pipeline.readers.storage import opened
from data_pipeline.readers.tables import arrow_documents

ARROW, PARQUET = ".arrow", ".parquet"
DICT, STATE, CARD = "dataset_dict.json", "state.json", "README.md"
# Words in file names by which the hub tells splits.
SPLITS = (
    "train",
    "training",
    "test",
    "testing",
    "eval",
    "evaluation",
    "validation",
    "valid",
    "val",
    "dev",
)


class HuggingFace(BaseModel, frozen=True, extra="forbid", strict=True):
    """One split of a dataset in a folder; nothing is fetched from the hub and no code of the dataset is run.

    Attributes:
        folder: Of the dataset, on disk or a URL: with state.json or dataset_dict.json, or with Parquet files.
        split: Its name; of Parquet files as README.md says (`configs`), else those with that word in their
        path.
        config: Of the dataset (hub layout alone); "" = its default or only one.
        columns: Which columns are read.
    """

    VERSION: ClassVar[int] = 2

    folder: str
    split: str
    config: str = ""
    columns: Columns = Columns()

    def parts(self, source: str, *, work: Path) -> list[Part]:
        """A part an Arrow file, or as in `Parquet`.

        Raises:
            FileNotFoundError: No such folder.
            ValueError: It is no such dataset, or has no such split or config.
        """
        field = f"sources.{source}.folder"
        files = {
            file.name: file
            for file in files_under(
                self.folder, (ARROW, PARQUET, DICT, STATE, CARD.lower()), field=field
            )
        }
        # `save_to_disk` writes state.json; the hub's layout has none, only Parquet and perhaps a card.
        if DICT in files or STATE in files:
            return [part_of([file]) for file in self._saved(files, field, work)]
        tables = self._hub(files, field, work)
        require_columns(tables, self.columns, source, work)
        return parquet_parts(tables, work)

    def read(self, part: Part, source: str, *, work: Path, drops: Drops) -> Iterator[Document]:
        """One document a row; a row's place is FILE:ROW, counted from 1.

        Raises:
            ValueError: The table lacks a column of `columns`.
        """
        if not part.inputs[0].endswith(ARROW):
            yield from parquet_documents(part, self.columns, source, work=work, drops=drops)
            return
        for path, name in files_of(part):
            yield from arrow_documents(path, name, self.columns, source, work=work, drops=drops)

    def _saved(self, files: dict[str, File], field: str, work: Path) -> list[File]:
        # A DatasetDict has a folder for each split, a Dataset is one split by itself.
        below = f"{self.split}/" if DICT in files else ""
        if below + STATE not in files:
            raise ValueError(
                f"{field}={self.folder!r} has no split {self.split!r}; "
                f"it has {', '.join(_folders_with(STATE, files))}"
            )
        try:
            state = json.loads(_text(files[below + STATE], work))
            names, split = (
                [below + file["filename"] for file in state["_data_files"]],
                state.get("_split"),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{field}={self.folder!r}: {below}{STATE} is none of a dataset; copy the folder again"
            ) from error
        # A folder of one split names it in its state; another name would silently train on the wrong rows.
        if split not in (None, self.split):
            raise ValueError(
                f"{field}={self.folder!r} holds the split {split!r}, not {self.split!r}; name that one"
            )
        missing = [name for name in names if name not in files]
        if missing:
            raise ValueError(
                f"{field}={self.folder!r} lacks {missing[0]}, which its {STATE} names; copy the folder again"
            )
        return [files[name] for name in sorted(names)]

    def _hub(self, files: dict[str, File], field: str, work: Path) -> list[File]:
        tables = [name for name in files if name.endswith(PARQUET)]
        card, top = _text(files[CARD], work) if CARD in files else "", field.removesuffix(".folder")
        wanted_patterns = patterns(card, config=self.config, split=self.split, field=top)
        # The card says nothing: then the hub goes by the names of the files.
        if wanted_patterns is None:
            tables = (
                [name for name in tables if name.startswith(f"{self.config}/")]
                if self.config
                else tables
            )
            wanted = [name for name in tables if _names_split(name, self.split)]
            if (
                not wanted
                and self.split == "train"
                and not any(_names_split(name, split) for name in tables for split in SPLITS)
            ):
                wanted = tables  # the hub's rule: files that name no split are for training
        else:
            wanted = [
                name
                for name in tables
                if any(fnmatch(name, pattern) for pattern in wanted_patterns)
            ]
        if not wanted:
            raise ValueError(
                f"{field}={self.folder!r} has no Parquet file of split {self.split!r}; "
                "name a split and config that it has"
            )
        return [files[name] for name in sorted(wanted)]


def _folders_with(name: str, files: dict[str, File]) -> list[str]:
    return sorted(file.removesuffix(f"/{name}") for file in files if file.endswith(f"/{name}"))


def _names_split(name: str, split: str) -> bool:
    # The split's word must stand by itself in the path: `train` is not in `constrained`.
    return re.search(rf"(?:^|[/._ -]){re.escape(split)}(?:[/._ -]|$)", name) is not None


def _text(file: File, work: Path) -> str:
    with opened(file.path, work) as opened_file:
        return opened_file.read().decode("utf-8-sig")
