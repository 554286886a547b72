"""The rows of one immutable segment of a source: its plans, and its documents as an epoch has them."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipeline.rows.keyed import key_from, uniform
from data_pipeline.rows.pack import Plan, best_fit, whole_documents
from data_pipeline.rows.packing import Packing
from data_pipeline.rows.plan import plan_key, planned, stored_plan
from data_pipeline.shards.record import Record
from data_pipeline.shards.segment import Segment
from data_pipeline.shards.shards import BadRecord, Shards, unharmed

# of those that fill-in-the-middle rearranges, when their lengths are measured
DOCUMENTS_A_READ = 256


class SegmentRows:
    """Plans of a segment: one an epoch where documents change from epoch to epoch, else one for all.

    A plan is made when it is first asked for, and kept beside the shards.

    Attributes:
        shards: Of the whole source.
        segment: Which part of them.
        packing: How documents become rows.
        fingerprint: Of all that the plans depend on.

    Raises:
        ValueError: fill-in-the-middle has another tokenizer than the shards were made with.
    """

    def __init__(self, shards: Shards, segment: Segment, packing: Packing):
        self.shards = shards
        self.segment = segment
        self.packing = packing
        # None: written by a tool that records no tokenizer
        made_with = segment.manifest["lineage"].get("tokenizer")
        if packing.fim and made_with not in (None, packing.tokenizer.fingerprint):
            raise ValueError(
                f"fim.tokenizer={packing.fim.tokenizer} is not the one {segment.folder} was made with; "
                "name that one"
            )
        self.fingerprint = plan_key(segment.manifest["content_hash"], *packing.described())
        self._plans: dict[int, Plan] = {}
        self._lock = threading.Lock()

    def plan(self, epoch: int) -> Plan:
        """The plan of an epoch; its documents are counted from the segment's first."""
        epoch = epoch if self.packing.varies else 0
        with self._lock:  # one thread makes it, the others wait
            if epoch not in self._plans:
                key = plan_key(self.fingerprint, epoch)
                self._plans[epoch] = stored_plan(self.segment.folder, key, self._blocks(epoch))
            return self._plans[epoch]

    def _blocks(self, epoch: int) -> Iterator[Plan]:
        """A new plan, block by block of documents."""
        self.segment.check_index()  # a plan stays on the disk: it must not come from damaged lengths
        yield from planned(
            len(self.segment.index),
            lambda documents: self._plan_some(self._lengths(documents, epoch)),
        )

    def n_rows(self, epochs: int | float) -> int:
        """Rows of the first `epochs` epochs together; of a broken one, the share rounded down."""
        if not self.packing.varies:
            return int(epochs * len(self.plan(0)))
        n_whole = int(epochs)
        n = sum(len(self.plan(epoch)) for epoch in range(n_whole))
        if epochs > n_whole:
            n += int((epochs - n_whole) * len(self.plan(n_whole)))
        return n

    def epoch_of(self, before: int) -> tuple[int, int]:
        """(epoch, position in it) of the row that has `before` rows of this segment before it."""
        if not self.packing.varies:
            return divmod(before, len(self.plan(0)))
        epoch = 0
        # Epochs differ in length here, so there is nothing to divide by.
        while before >= (n := len(self.plan(epoch))):
            before -= n
            epoch += 1
        return epoch, before

    def ids(self, documents: Any = slice(None)) -> np.ndarray:
        """`id_key` of documents; uint64 [n]."""
        return np.ascontiguousarray(self.segment.index["id"][documents])

    def read(self, documents: np.ndarray, epoch: int) -> list[Record | BadRecord]:
        """Documents as they are in an epoch; in place of a damaged one what is wrong with it.

        Args:
            documents: Their numbers in the segment, int64 [n].
            epoch: Of the segment.
        """
        # numbers of the segment become those of the source
        records = self.shards.read(documents + self.segment.first)
        fim = self.packing.fim
        if fim is None:
            return records
        good = [i for i, record in enumerate(records) if isinstance(record, Record)]
        rewritten = fim.rewrite(
            [records[i] for i in good], self.ids(documents[good]), epoch, self.packing.tokenizer
        )
        for i, record in zip(good, rewritten, strict=True):
            records[i] = record
        return records

    def _plan_some(self, lengths: np.ndarray) -> Plan:
        """The plan of some documents, which fill so many positions."""
        seq_len = self.packing.seq_len
        pairs_per_row = self.packing.pairs_per_row
        if pairs_per_row:
            # The answers of a pair are compared, so a pair that is longer than a row is left out.
            return best_fit(whole_documents(lengths, seq_len), seq_len, pairs_per_row)
        return self.packing.strategy.plan(lengths, seq_len)

    def _lengths(self, documents: slice, epoch: int) -> np.ndarray:
        """Positions that documents fill in an epoch, 0 for those left out; int64 [n]."""
        # the first token of a sequence is never a target, so n tokens fill n - 1 positions
        lengths = (self.segment.index["lengths"][documents] - 1).clip(min=0).sum(1, dtype=np.int64)
        ids = self.ids(documents)
        stays = uniform(key_from("dropout", epoch), ids) >= self.packing.dropout
        if self.packing.fim:
            # only encoding tells how many tokens a rearranged document has
            rearranged = np.flatnonzero(self.packing.fim.chosen(ids, epoch) & stays)
            for some in np.split(
                rearranged, range(DOCUMENTS_A_READ, len(rearranged), DOCUMENTS_A_READ)
            ):
                records = unharmed(self.read(some + documents.start, epoch))
                lengths[some] = [len(record.sequences[0].tokens) - 1 for record in records]
        return np.where(stays, lengths, 0)
