"""SentencePiece: train one on a corpus, encode and decode without losing a byte, and keep control ids out of text's reach."""

import hashlib
import io
import math
import re
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, SupportsIndex

import numpy as np
import sentencepiece
from pydantic import BaseModel, Field

from data_pipeline.files import write_bytes
from data_pipeline.sampling import first_by_key, key_of

ROLES = ("system", "user", "assistant")
CHAT_PIECES = (*(f"<|{role}|>" for role in ROLES), "<|end|>")
SPACE = "▁"  # U+2581, how SentencePiece writes a space; the same letter in a text must be told apart from it
SPACE_BYTES = tuple(f"<0x{byte:02X}>" for byte in SPACE.encode())
UNIT_CHARS = 1 << 16  # texts are sampled in units of this size, so that no single file fills the sample


class SentencePiece(BaseModel, frozen=True, extra="forbid", strict=True):
    """How the vocabulary is learned.

    `vocab_size` counts everything: 8 control pieces, 256 bytes, the rest learned. `sample_mib` bounds the text learned from
    (None = all of it); a rare letter outside `character_coverage` of the text is spelled in bytes.
    """

    vocab_size: int = Field(ge=264)
    model: Literal["bpe", "unigram"]
    sample_mib: float | None = Field(default=None, gt=0)
    character_coverage: float = Field(default=0.9995, gt=0, le=1)

    def train(self, texts: Iterable[str], path: Path) -> None:
        """Learn the vocabulary from `texts` and write the model to `path`; the same set of texts gives the same file, in any order.

        Raises:
            ValueError: `vocab_size` is more than the text supports or less than its letters need; nothing is written.
        """
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sample(texts, self.sample_mib)),
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
                control_symbols=list(CHAT_PIECES),
                max_sentence_length=UNIT_CHARS * 4 + 1,  # longer ones are left out silently; a letter has up to 4 bytes
                num_threads=1,  # the sums of unigram training depend on the number of threads
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ValueError(self._reason(str(error))) from error
        write_bytes(path, model.getvalue())

    def _reason(self, message: str) -> str:
        if largest := re.search(r"too high.*<= (\d+)", message):
            return f"vocab_size={self.vocab_size} is more than this text supports; set it to {largest[1]} or lower, or add text"
        if smallest := re.search(r"required_chars\. \d+ vs (\d+)", message):
            return f"vocab_size={self.vocab_size} is too small for the letters of this text; set it to {smallest[1]} or higher"
        return f"vocab_size={self.vocab_size}: SentencePiece could not train on this text ({message.rsplit('] ', 1)[-1]})"


def sample(texts: Iterable[str], sample_mib: int | float | None) -> list[str]:
    """Units of text, in the order of their hashes, as many as fit into `sample_mib`: a function of the set of texts alone.

    Raises:
        ValueError: there is no text.
    """
    units = (text[start : start + UNIT_CHARS] for text in texts for start in range(0, len(text), UNIT_CHARS))
    keyed = ((key_of(unit), len(unit.encode(errors="surrogatepass")), unit) for unit in units)
    chosen = first_by_key(keyed, math.inf if sample_mib is None else sample_mib * 2**20)
    # SentencePiece skips any sentence with its own reserved letters (U+2581, U+2585) or NUL
    parts = [part for unit in chosen for part in re.split("[\u2581\u2585\0]", unit) if part]
    if not parts:
        raise ValueError("the tokenizer has no text to train on; check the sources, and that sample_mib is not too small")
    return parts


class Tokenizer:
    """A trained model: text ↔ ids, exactly. Attributes are ids: `pad`, `bos`, `eos`, `end_of_turn`, `roles[role]`.

    `byte_lengths[id]` is the number of UTF-8 bytes that an id stands for, 0 for control ids.

    Raises:
        ValueError: the file is no model of ours. OSError: it cannot be read.
    """

    def __init__(self, path: str | PathLike):
        data = Path(path).read_bytes()
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=data or b"empty")  # it takes b"" for no argument
        except RuntimeError as error:
            raise ValueError(f"{path} is not a SentencePiece model; train it again") from error
        ids = {piece: self._model.piece_to_id(piece) for piece in (*CHAT_PIECES, *SPACE_BYTES)}
        unknown = [piece for piece, i in ids.items() if i == self._model.unk_id()]
        if unknown:
            raise ValueError(f"{path} has no piece {unknown[0]}; use a tokenizer made by this project's `SentencePiece`")
        self.fingerprint = hashlib.sha256(data).hexdigest()
        self.vocab_size: int = self._model.vocab_size()
        self.pad, self.bos, self.eos = self._model.pad_id(), self._model.bos_id(), self._model.eos_id()
        self.roles = {role: ids[f"<|{role}|>"] for role in ROLES}
        self.end_of_turn: int = ids["<|end|>"]
        self._space = [ids[piece] for piece in SPACE_BYTES]
        self._bytes = [self._bytes_of(i) for i in range(self.vocab_size)]
        self.byte_lengths = np.array([len(b) for b in self._bytes], np.int32)

    def _bytes_of(self, i: int) -> bytes:
        piece = self._model.id_to_piece(i)
        if self._model.is_control(i) or self._model.is_unknown(i):
            return b""
        return bytes.fromhex(piece[3:-1]) if self._model.is_byte(i) else piece.replace(SPACE, " ").encode()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without bos or eos and never a control id; `decode` gives exactly `text` back.

        Raises:
            ValueError: `text` has a lone surrogate, which is no Unicode text.
        """
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str], *, n_threads: int = 1) -> list[list[int]]:
        """`encode` for many texts; SentencePiece releases the interpreter, so threads help."""
        parts, counts = [], []
        for text in texts:
            split = text.split(SPACE)  # nearly always one part
            parts += split
            counts.append(len(split))
        try:
            encoded = iter(self._model.encode(parts, num_threads=n_threads))
        except (RuntimeError, TypeError) as error:  # what the library makes of a str that has no UTF-8
            raise ValueError("the text has a lone surrogate (U+D800-DFFF); decode its file with errors='replace'") from error
        return [self._join([next(encoded) for _ in range(count)]) for count in counts]

    def _join(self, parts: list[list[int]]) -> list[int]:
        ids = list(parts[0])
        for part in parts[1:]:
            ids += self._space
            ids += part
        return ids

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text of `ids`; control ids are silent, and bytes that are no UTF-8 become U+FFFD."""
        return b"".join([self._bytes[i] for i in ids]).decode(errors="replace")
