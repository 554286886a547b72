"""Fill-in-the-middle: a document as prefix, suffix, middle, so that a model learns to write between two
texts (Bavarian et al. 2022).
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, Field

from data_pipeline.rows.keyed import key_from, uniform
from data_pipeline.shards.record import Record
from data_pipeline.shards.record import Sequence as Tokens
from data_pipeline.tokenizers.tokenizer import Tokenizer


class FillInTheMiddle(BaseModel, frozen=True, extra="forbid", strict=True):
    """Which documents of a source are turned around, and how; what happens to one is a function of (its id,
    epoch).

    A document is decoded, cut at two characters and its three parts are encoded anew: a cut inside a piece
    of the vocabulary would show the model joins that no user's text has. Documents with control pieces or
    tokens that are no targets stay as they are.

    Attributes:
        rate: Of the documents.
        spm_rate: Of those, as `prefix suffix middle` with the suffix first: `<pre><suf> S <mid> P M`, the
        paper's SPM (variant 2);
            the others as PSM, `<pre> P <suf> S <mid> M`.
        tokenizer: The one that the shards were made with; relative to the run folder.
    """

    VERSION: ClassVar[int] = 1

    rate: float = Field(gt=0, le=1)
    spm_rate: float = Field(default=0.5, ge=0, le=1)
    tokenizer: str = "data/tokenizer.model"

    def chosen(self, ids: np.ndarray, epoch: int) -> np.ndarray:
        """Which documents (`id_key` of each) are turned around; bool [n]."""
        return uniform(key_from("fim", epoch), ids) < self.rate

    def rewrite(
        self, records: Sequence[Record], ids: np.ndarray, epoch: int, tokenizer: Tokenizer
    ) -> list[Record]:
        """The records, those chosen turned around."""
        out = list(records)
        turned = [
            i for i in np.flatnonzero(self.chosen(ids, epoch)).tolist() if _is_plain(records[i], tokenizer)
        ]
        texts = [tokenizer.decode(records[i].sequences[0].tokens) for i in turned]
        suffix_first = uniform(key_from("fim order", epoch), ids[turned]) < self.spm_rate
        parts = [
            part
            for text, cuts in zip(texts, self._cuts(texts, ids[turned], epoch), strict=True)
            for part in _parts(text, cuts)
        ]
        encoded = tokenizer.encode_all(parts)
        for n, i in enumerate(turned):
            prefix, middle, suffix = encoded[3 * n : 3 * n + 3]
            out[i] = _turned(records[i], prefix, middle, suffix, bool(suffix_first[n]), tokenizer)
        return out

    def _cuts(self, texts: list[str], ids: np.ndarray, epoch: int) -> list[tuple[int, int]]:
        """Two places in each text, drawn evenly from all between its characters."""
        drawn = [uniform(key_from("fim cut", number, epoch), ids).tolist() for number in range(2)]
        pairs = [
            sorted(int(u * (len(text) + 1)) for u in us) for text, *us in zip(texts, *drawn, strict=True)
        ]
        return [(first, second) for first, second in pairs]


def _is_plain(record: Record, tokenizer: Tokenizer) -> bool:
    """Whether a document is text between bos and eos, all of it targets."""
    (tokens, weight), control = record.sequences[0], tokenizer.byte_lengths == 0
    ends = (tokens[0], tokens[-1]) == (tokenizer.bos, tokenizer.eos)
    return bool(ends and len(tokens) > 2 and weight.all() and not control[tokens[1:-1]].any())


def _parts(text: str, cuts: tuple[int, int]) -> tuple[str, str, str]:
    first, second = cuts
    return text[:first], text[first:second], text[second:]


def _turned(
    record: Record,
    prefix: list[int],
    middle: list[int],
    suffix: list[int],
    suffix_first: bool,
    tokenizer: Tokenizer,
) -> Record:
    begin, behind, between = (tokenizer.fim[part] for part in ("prefix", "suffix", "middle"))
    if suffix_first:
        body = [begin, behind, *suffix, between, *prefix, *middle]
    else:
        body = [begin, *prefix, behind, *suffix, between, *middle]
    tokens = np.array([tokenizer.bos, *body, tokenizer.eos], np.int32)
    return Record(record.id, (Tokens(tokens, np.ones(len(tokens), np.uint8)),))
