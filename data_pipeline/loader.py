"""From shards to batches: the data components."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, model_validator

from data_pipeline.batch import PreferenceBatch, TokenBatch
from data_pipeline.component import FrozenMap, PathText, one_of
from data_pipeline.rows.fim import FillInTheMiddle
from data_pipeline.rows.mix import Schedule
from data_pipeline.rows.pack import BestFit
from data_pipeline.rows.packed import PackedRows
from data_pipeline.rows.sequence import RowSequence
from data_pipeline.tokenizers.tokenizer import Tokenizer

Frac = Annotated[float, Field(gt=0, lt=1)]


class Data(Protocol):
    """What a Run asks of any data component, whether its rows are in shards or are made while training."""

    batch_type: type
    batch_size: int

    @property
    def row_length(self) -> int:
        """Positions of a row: what context, FLOPs and memory are reckoned with."""
        ...

    def sizes(self) -> dict[str, int]:
        """The size of every letter of `batch_type`."""
        ...

    def source_names(self) -> list[str]:
        """What `source_BL` of a batch counts, in its order."""
        ...


@runtime_checkable
class ShardData(Data, Protocol):
    """Data whose rows are in shards, and can be read in any order."""

    processes: int

    def sources(self, root: Path) -> dict[str, PackedRows]:
        """Open the shards: the rows of each source by name, in plan order.

        Raises:
            FileNotFoundError: a folder holds no shards.
        """
        ...

    def sequence(self, sources: dict[str, PackedRows], seed: int) -> RowSequence:
        """The rows of these sources in the order of training."""
        ...


@runtime_checkable
class MakesShards(Protocol):
    """A phase that makes shards; what reads them is checked against it before it begins."""

    def shard_names(self) -> dict[str, tuple[str, ...]]:
        """Folder inside of the phase's own -> the sources whose shards will be there."""
        ...


class PackedShards(BaseModel, frozen=True, extra="forbid", strict=True):
    """Rows of `seq_len` positions packed from the shard folders `folder/<source>`, mixed by weight (of rows).

    Attributes:
        folder: Relative to the run folder.
        weights: Of the sources that rows are drawn from at first.
        seq_len: Positions a row.
        batch_size: Rows of a global batch.
        packing: How documents become rows.
        schedule: How the mixture goes on: shares by size, stages, caps.
        fim: Source → how its documents are turned around for fill-in-the-middle. Every epoch has a plan of
            its own, for which the documents turned around are encoded once; it is made when the first row of
            the epoch is read.
        dropout: Source → share of its documents left out of each epoch, other ones in each; a plan an epoch
            too.
        processes: That read ahead on each host; 0 = threads.
        skip_bad_records: A damaged or missing record becomes padding in its row and is counted; otherwise
            it is an error. One that fill-in-the-middle turns around is an error when the plan of its epoch
            is made.
    """

    folder: PathText
    weights: FrozenMap[str, PositiveFloat]
    seq_len: PositiveInt
    batch_size: PositiveInt
    packing: one_of("data_pipeline.rows.pack") = BestFit()
    schedule: Schedule = Schedule()
    fim: FrozenMap[str, FillInTheMiddle] = FrozenMap()
    dropout: FrozenMap[str, Frac] = FrozenMap()
    processes: int = Field(default=0, ge=0)
    skip_bad_records: bool = False

    batch_type: ClassVar[type] = TokenBatch

    @model_validator(mode="after")
    def _rules(self) -> "PackedShards":
        # Otherwise the next window of a long document would not begin after the one before it.
        if self.packing.overlap >= self.seq_len:
            rule = (
                f"packing.overlap={self.packing.overlap} must be less than seq_len={self.seq_len}"
            )
            raise ValueError(f"{rule}; lower it")
        _check_names(self, fim=self.fim, dropout=self.dropout)
        return self

    @property
    def row_length(self) -> int:
        """Positions of a row, padding included."""
        return self.seq_len

    def sizes(self) -> dict[str, int]:
        """The size of every letter of a batch."""
        return {"B": self.batch_size, "L": self.seq_len}

    def source_names(self) -> list[str]:
        """Every source that a stage names, in the order of their first stages."""
        return _source_names(self.weights, self.schedule)

    def sources(self, root: Path) -> dict[str, PackedRows]:
        """Open the shards: the rows of each source by name, in plan order."""
        return {
            name: PackedRows(root / self.folder / name, **self._packing(root, name))
            for name in self.source_names()
        }

    def _packing(self, root: Path, name: str) -> dict[str, Any]:
        fim = self.fim.get(name)
        return {
            "seq_len": self.seq_len,
            "strategy": self.packing,
            "dropout": self.dropout.get(name, 0.0),
            "fim": fim,
            # documents that are turned around are encoded anew
            "tokenizer": Tokenizer(root / fim.tokenizer) if fim else None,
            "skip_bad_records": self.skip_bad_records,
        }

    def sequence(self, sources: dict[str, PackedRows], seed: int) -> RowSequence:
        """The rows of these sources in the order of training."""
        return RowSequence(sources, self.weights, seed, self.schedule)


class PackedPairs(BaseModel, frozen=True, extra="forbid", strict=True):
    """Preference pairs packed into rows of `seq_len` positions, at most `pairs_per_row` each; longer pairs
    are left out.

    The other fields are those of `PackedShards`.
    """

    folder: PathText
    weights: FrozenMap[str, PositiveFloat]
    seq_len: PositiveInt
    batch_size: PositiveInt
    pairs_per_row: PositiveInt
    schedule: Schedule = Schedule()
    processes: int = Field(default=0, ge=0)
    skip_bad_records: bool = False

    batch_type: ClassVar[type] = PreferenceBatch

    @model_validator(mode="after")
    def _rules(self) -> "PackedPairs":
        _check_names(self)
        return self

    @property
    def row_length(self) -> int:
        """Positions of a row, padding included."""
        return self.seq_len

    def sizes(self) -> dict[str, int]:
        """The size of every letter of a batch."""
        return {"B": self.batch_size, "L": self.seq_len, "P": self.pairs_per_row}

    def source_names(self) -> list[str]:
        """Every source that a stage names, in the order of their first stages."""
        return _source_names(self.weights, self.schedule)

    def sources(self, root: Path) -> dict[str, PackedRows]:
        """Open the shards: the rows of each source by name, in plan order."""
        settings = {
            "seq_len": self.seq_len,
            "pairs_per_row": self.pairs_per_row,
            "skip_bad_records": self.skip_bad_records,
        }
        return {
            name: PackedRows(root / self.folder / name, **settings) for name in self.source_names()
        }

    def sequence(self, sources: dict[str, PackedRows], seed: int) -> RowSequence:
        """The rows of these sources in the order of training."""
        return RowSequence(sources, self.weights, seed, self.schedule)


def _source_names(weights: Mapping[str, float], schedule: Schedule) -> list[str]:
    """The order gives sources the numbers that they have in batches: it must not change when a later stage
    names one again.
    """
    # dict.fromkeys keeps the first place of a name that comes twice.
    later = (name for stage in schedule.stages for name in stage.weights)
    return list(dict.fromkeys([*weights, *later]))


def _check_names(data: PackedShards | PackedPairs, **by_source: Mapping[str, Any]) -> None:
    """Refuse settings for sources that no stage draws from."""
    known, schedule = data.source_names(), data.schedule
    named: dict[str, Mapping[str, Any]] = {
        "schedule.segments": schedule.segments,
        "schedule.max_epochs": schedule.max_epochs,
    }
    named |= {
        f"schedule.stages.{i}.segments": stage.segments for i, stage in enumerate(schedule.stages)
    }
    for field, names in (named | by_source).items():
        for name in names:
            if name not in known:
                sources = ", ".join(known)
                raise ValueError(f"{field}.{name} is no source of the mixture; choose of {sources}")
