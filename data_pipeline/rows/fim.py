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
    """Which documents of a source are rearranged, and how; what happens to one is a function of (its id,
    epoch).

    A document is decoded, cut at two characters and its three parts are encoded anew: a cut inside a piece
    of the vocabulary would show the model joins that no user's text has. Documents with control pieces or
    tokens that are no targets stay as they are.

    Attributes:
        rate: Of the documents.
        spm_rate: Of those, with the suffix first: `<pre><suf> S <mid> P M`, the paper's SPM (variant 2);
        the others are PSM, `<pre> P <suf> S <mid> M`.
        tokenizer: The one that the shards were made with; relative to the run folder.
    """

    VERSION: ClassVar[int] = 1

    rate: float = Field(gt=0, le=1)
    spm_rate: float = Field(default=0.5, ge=0, le=1)
    tokenizer: str = "data/tokenizer.model"

    def chosen(self, ids: np.ndarray, epoch: int) -> np.ndarray:
        """Which documents (`id_key` of each) are rearranged; bool [n]."""
        # The epoch is in the key: a document is cut elsewhere each time it is read.
        return uniform(key_from("fim", epoch), ids) < self.rate

    def rewrite(
        self, records: Sequence[Record], ids: np.ndarray, epoch: int, tokenizer: Tokenizer
    ) -> list[Record]:
        """The records, those chosen rearranged.

        Args:
            records: Documents of one sequence.
            ids: `id_key` of each, uint64 [n].
            epoch: Of the source.
            tokenizer: The one that the records were made with.
        """
        # The draw depends on ids only, so any process chooses the same documents.
        chosen = np.flatnonzero(self.chosen(ids, epoch)).tolist()
        chosen = [i for i in chosen if _is_plain(records[i], tokenizer)]

        # bos and eos are control ids, which decode to nothing
        texts = [tokenizer.decode(records[i].sequences[0].tokens) for i in chosen]
        suffix_first = uniform(key_from("fim order", epoch), ids[chosen]) < self.spm_rate

        # all parts of all texts are encoded in one call: prefix, middle, suffix of each
        parts: list[str] = []
        for text, (first, second) in zip(texts, self._cuts(texts, ids[chosen], epoch), strict=True):
            parts += [text[:first], text[first:second], text[second:]]
        encoded = tokenizer.encode_all(parts)

        # In the same order as before; only the chosen ones are replaced.
        rewritten = list(records)
        for n, i in enumerate(chosen):
            prefix, middle, suffix = encoded[3 * n : 3 * n + 3]
            tokens = _rearranged(prefix, middle, suffix, bool(suffix_first[n]), tokenizer)
            rewritten[i] = Record(records[i].id, (Tokens(tokens, np.ones(len(tokens), np.uint8)),))
        return rewritten

    def _cuts(self, texts: list[str], ids: np.ndarray, epoch: int) -> list[tuple[int, int]]:
        """Two places in each text, drawn evenly from all between its characters."""
        # Two keys, because one draw used twice would cut at one place.
        one = uniform(key_from("fim cut", 0, epoch), ids).tolist()
        other = uniform(key_from("fim cut", 1, epoch), ids).tolist()
        cuts = []
        for text, *fractions in zip(texts, one, other, strict=True):
            first, second = sorted(int(fraction * (len(text) + 1)) for fraction in fractions)
            cuts.append((first, second))
        return cuts


def _is_plain(record: Record, tokenizer: Tokenizer) -> bool:
    """Whether a document is text between bos and eos, all of it targets."""
    tokens, weight = record.sequences[0]

    # an empty text has nothing to cut
    if len(tokens) <= 2 or (tokens[0], tokens[-1]) != (tokenizer.bos, tokenizer.eos):
        return False
    # Control pieces have no bytes, so decoding would lose them.
    is_control = tokenizer.byte_lengths[tokens[1:-1]] == 0
    return bool(weight.all() and not is_control.any())


def _rearranged(
    prefix: list[int],
    middle: list[int],
    suffix: list[int],
    suffix_first: bool,
    tokenizer: Tokenizer,
) -> np.ndarray:
    """The tokens of a document in its new order, int32 [n]."""
    before_prefix, before_suffix, before_middle = (
        tokenizer.fim[part] for part in ("prefix", "suffix", "middle")
    )
    if suffix_first:
        # SPM: the middle follows its prefix without a mark, as in a text that is being written.
        body = [before_prefix, before_suffix, *suffix, before_middle, *prefix, *middle]
    else:
        body = [before_prefix, *prefix, before_suffix, *suffix, before_middle, *middle]
    return np.array([tokenizer.bos, *body, tokenizer.eos], np.int32)
