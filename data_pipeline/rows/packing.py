"""What the rows of a source depend on besides its documents."""

from typing import Any, NamedTuple

from data_pipeline.rows.fim import FillInTheMiddle
from data_pipeline.rows.pack import BestFit
from data_pipeline.settings import described
from data_pipeline.tokenizers.tokenizer import Tokenizer


class Packing(NamedTuple):
    """How documents become rows.

    Attributes:
        seq_len: Positions a row.
        strategy: A component of `data_pipeline.rows.pack`.
        pairs_per_row: At most so many preference pairs a row, each whole; None = documents.
        fim: How documents are rearranged for fill-in-the-middle; None = as they are.
        tokenizer: What `fim` needs.
        dropout: Share of the documents that are left out of an epoch, other ones in each.
        skip_bad_records: Padding takes the place of a damaged document, which would be an error otherwise.
        No other row depends on it.
    """

    seq_len: int
    strategy: Any = BestFit()
    pairs_per_row: int | None = None
    fim: FillInTheMiddle | None = None
    tokenizer: Tokenizer | None = None
    dropout: float = 0.0
    skip_bad_records: bool = False

    @property
    def varies(self) -> bool:
        """Whether each epoch has a plan of its own; otherwise one plan serves all."""
        # dropout and the cuts of fill-in-the-middle are drawn anew for every epoch
        return self.fim is not None or self.dropout > 0

    def described(self) -> list[Any]:
        """All that changes a plan, as JSON: a part of the plan's key."""
        fim = None
        if self.fim is not None:
            # the tokenizer's content counts; its path differs from machine to machine
            fim = [described(self.fim, without=("tokenizer",)), self.tokenizer.fingerprint]
        return [self.seq_len, described(self.strategy), self.pairs_per_row, fim, self.dropout]
