"""Text ↔ ids: learn a SentencePiece vocabulary, open any tokenizer file, lose no byte, and keep control ids
out of text's reach.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import ClassVar, Literal, SupportsIndex

import numpy as np
import sentencepiece
from pydantic import BaseModel, Field

from data_pipeline.files import write_bytes
from data_pipeline.tokenizers.control import CONTROL_PIECES, FIM_PARTS, ROLES
from data_pipeline.tokenizers.hugging_face import HuggingFaceModel
from data_pipeline.tokenizers.sample import MAX_UNIT_BYTES, sample, weighted_sample
from data_pipeline.tokenizers.sentence_model import SentenceModel


class SentencePiece(BaseModel, frozen=True, extra="forbid", strict=True):
    """How the vocabulary is learned.

    `vocab_size` counts everything: 13 control pieces, 256 bytes, the rest learned. `sample_mib` bounds the
    text learned from (None = all of it); a rare letter outside `character_coverage` of the text is spelled
    in bytes.
    """

    VERSION: ClassVar[int] = 1

    vocab_size: int = Field(ge=269)
    model: Literal["bpe", "unigram", "char"]
    sample_mib: float | None = Field(default=None, gt=0)
    character_coverage: float = Field(default=0.9995, gt=0, le=1)

    def make(
        self, sources: Mapping[str, Iterable[str]], path: Path, *, weights: Mapping[str, float]
    ) -> None:
        """Learn the vocabulary from source → texts, each source having its weight's share of the bytes
        learned from.

        Raises:
            ValueError: as in `weighted_sample` and `train`; nothing is written.
        """
        self._learn(weighted_sample(sources, weights, self.sample_mib), path)

    def train(self, texts: Iterable[str], path: Path) -> None:
        """Learn the vocabulary from `texts` and write the model to `path`; the same set of texts gives the
        same file, in any order.

        Raises:
            ValueError: `vocab_size` is more than the text supports or less than its letters need; nothing
            is written.
        """
        self._learn(sample(texts, self.sample_mib), path)

    def _learn(self, units: Sequence[str], path: Path) -> None:
        # SentencePiece skips any sentence with its own reserved letters (U+2581, U+2585) or NUL
        sentences = [part for unit in units for part in re.split("[\u2581\u2585\0]", unit) if part]
        if not sentences:
            remedy = "check the sources, and that sample_mib is not too small"
            raise ValueError(f"the tokenizer has no text to train on; {remedy}")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sentences),
                model_writer=model,
                model_type=self.model,
                vocab_size=self.vocab_size,
                character_coverage=self.character_coverage,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                allow_whitespace_only_pieces=True,
                split_digits=True,
                byte_fallback=True,
                pad_id=0,
                unk_id=1,
                bos_id=2,
                eos_id=3,
                pad_piece="<pad>",
                control_symbols=list(CONTROL_PIECES),
                max_sentence_length=MAX_UNIT_BYTES + 1,  # longer ones are left out silently
                num_threads=1,  # the sums of unigram training depend on the number of threads
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ValueError(self._reason(str(error))) from error
        write_bytes(path, model.getvalue())

    def _reason(self, message: str) -> str:
        field = f"vocab_size={self.vocab_size}"
        if largest := re.search(r"too high.*<= (\d+)", message):
            return f"{field} is more than this text supports; set it to {largest[1]} or lower, or add text"
        if smallest := re.search(r"required_chars\. \d+ vs (\d+)", message):
            return f"{field} is too small for the letters of this text; set it to {smallest[1]} or higher"
        # Its messages begin with a place in its source: [file.cc(123)].
        reason = message.rsplit("] ", 1)[-1]
        return f"{field}: SentencePiece could not train on this text ({reason})"


class Tokenizer:
    """A tokenizer file: text ↔ ids, exactly.

    Attributes are ids: `pad`, `bos`, `eos`, `end_of_turn`, `roles[role]`, `control[piece]`.

    `stop_ids` are all ids that end a text or an answer: eos, end_of_turn, and what an imported model names
    beside them. `adds_bos`: whether the file puts bos in front of a text (GPT-2's and Qwen's do not).

    `special` are all special pieces under the file's own names, and `chat_template` is the Jinja template
    that came with them ("" where none did); `chat_pieces` is what it may name, `bos_token` → the piece.

    `byte_lengths[id]` is the number of UTF-8 bytes that an id stands for, 0 for control ids. `roles` is
    empty when the file has no pieces for them, and `end_of_turn` is then `eos`.

    Raises:
        ValueError: the file was not made by `SentencePiece` or `HuggingFaceTokenizer`. OSError: it cannot
        be read.
    """

    def __init__(self, path: str | PathLike):
        self._open(Path(path).read_bytes(), str(path))

    def _open(self, data: bytes, name: str) -> None:
        self._source = data, name  # what a pickled tokenizer is opened from again
        # a SentencePiece model is a protocol buffer, whose first byte is 0x0A
        opened = HuggingFaceModel if data.startswith(b"{") else SentenceModel
        self._model = opened(data, name)
        self.fingerprint = hashlib.sha256(data).hexdigest()
        self.pad = self._model.pad
        self.bos = self._model.bos
        self.eos = self._model.eos
        self.control = self._model.control
        self.special = self._model.special
        self.chat_template = self._model.chat_template
        self.chat_pieces = self._model.chat_pieces
        self.end_of_turn: int = self.control.get("<|end|>", self.eos)
        # each once, eos first
        ends = (self.eos, self.end_of_turn, *self._model.further_stop_ids)
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys(ends))
        self.adds_bos = self._model.adds_bos
        # A chat needs the pieces of all roles.
        roles = {role: self.control.get(f"<|{role}|>") for role in ROLES}
        self.roles: dict[str, int] = {} if None in roles.values() else roles
        self._bytes = self._model.pieces
        self.vocab_size = len(self._bytes)
        self.byte_lengths = np.array([len(piece) for piece in self._bytes], np.int32)

    # The libraries' objects cannot be pickled, so another process opens the bytes again.
    def __getstate__(self) -> tuple[bytes, str]:
        return self._source

    def __setstate__(self, state: tuple[bytes, str]) -> None:
        self._open(*state)

    @property
    def fim(self) -> dict[str, int]:
        """prefix, suffix, middle → id, of the pieces for fill-in-the-middle.

        Raises:
            ValueError: the tokenizer has none.
        """
        ids = {part: self.control.get(f"<|fim_{part}|>") for part in FIM_PARTS}
        if None in ids.values():
            pieces = " ".join(f"<|fim_{part}|>" for part in FIM_PARTS)
            remedy = "make the tokenizer again, or leave out fill-in-the-middle"
            raise ValueError(f"{self._source[1]} has no pieces {pieces}; {remedy}")
        return ids

    def normalized(self, text: str) -> str:
        """`text` as it is encoded: in NFC if the file says so, else as it is."""
        return self._model.normalized(text)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without bos or eos and never a control id; `decode` gives exactly `text` back, or
        its `normalized`.

        Raises:
            ValueError: `text` has a lone surrogate, which is no Unicode text.
        """
        return self._model.encode(text)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts, on one core; more cores need more processes."""
        return [self._model.encode(text) for text in texts]

    def bytes_of(self, ids: Iterable[SupportsIndex]) -> bytes:
        """The bytes of `ids`, which need not end where a character does; control ids have none."""
        return b"".join([self._bytes[i] for i in ids])

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text of `ids`; control ids are silent, and bytes that are no UTF-8 become U+FFFD."""
        return self.bytes_of(ids).decode(errors="replace")
