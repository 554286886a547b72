"""A SentencePiece model as `Tokenizer` uses one."""

from collections.abc import Mapping
from typing import Any

import sentencepiece

from data_pipeline.tokenizers.control import CHAT_PIECES, CONTROL_PIECES, SPACE, SPACE_BYTES
from data_pipeline.tokenizers.fast_bpe import Encoder
from data_pipeline.tokenizers.hugging_face import Special


class SentenceModel:
    """Text → ids and ids → bytes.

    Attributes:
        pieces: The bytes that each id stands for; none for control ids.
        control: Control piece → id, of those that the model has.

    Raises:
        ValueError: the bytes are no SentencePiece model, or none that can keep text apart from control
        pieces.
    """

    def __init__(self, data: bytes, name: str):
        try:
            # b"" would count as no argument, and nothing would be refused.
            self._model = sentencepiece.SentencePieceProcessor(model_proto=data or b"empty")
        except RuntimeError as error:
            raise ValueError(f"{name} is not a SentencePiece model; train it again") from error
        # a piece that the model does not have gets the id of <unk>
        ids = {piece: self._model.piece_to_id(piece) for piece in (*CONTROL_PIECES, *SPACE_BYTES)}
        known = {piece: i for piece, i in ids.items() if i != self._model.unk_id()}
        unknown = [piece for piece in (*CHAT_PIECES, *SPACE_BYTES) if piece not in known]
        if unknown:
            remedy = "use a tokenizer made by this project's `SentencePiece`"
            raise ValueError(f"{name} has no piece {unknown[0]}; {remedy}")
        self.pad = self._model.pad_id()
        self.bos = self._model.bos_id()
        self.eos = self._model.eos_id()
        self.control = {piece: known[piece] for piece in CONTROL_PIECES if piece in known}
        self.special = {piece: Special(i, False, False) for piece, i in self.control.items()}
        # in ours every document begins with bos, and all that ends one is named
        self.adds_bos = True
        self.further_stop_ids: tuple[int, ...] = ()
        self.chat_template = ""  # a SentencePiece file has no place for one
        self.chat_pieces: dict[str, str] = {}
        self.normalized = str  # ours change nothing
        self.pieces = [_bytes_of(self._model, i) for i in range(self._model.vocab_size())]
        self._space = [known[piece] for piece in SPACE_BYTES]
        # the fast encoder must agree on a text that has every piece
        all_pieces = "".join(map(self._model.id_to_piece, range(len(self.pieces))))
        probes = [all_pieces.replace(SPACE, " ")]
        self._encode_part = Encoder(self._model.encode, lambda: tokenizer_json(self._model), probes)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`.

        Raises:
            ValueError: it has a lone surrogate.
        """
        try:
            # U+2581 in a text is spelled in bytes; nearly always there is only one part.
            ids, *rest = map(self._encode_part, text.split(SPACE))
        except (
            RuntimeError,
            TypeError,
        ) as error:  # what the libraries make of a str that has no UTF-8
            remedy = "decode its file with errors='replace'"
            raise ValueError(f"the text has a lone surrogate (U+D800-DFFF); {remedy}") from error
        for part in rest:
            ids += self._space
            ids += part
        return ids


def _is_text(model: sentencepiece.SentencePieceProcessor, i: int) -> bool:
    return not (model.is_control(i) or model.is_unknown(i) or model.is_byte(i))


def _bytes_of(model: sentencepiece.SentencePieceProcessor, i: int) -> bytes:
    piece = model.id_to_piece(i)
    if _is_text(model, i):
        return piece.replace(SPACE, " ").encode()
    return bytes.fromhex(piece[3:-1]) if model.is_byte(i) else b""


def tokenizer_json(model: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
    """A model in Hugging Face's format, without its control pieces."""
    normalizer = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    file = {"version": "1.0", "added_tokens": [], "normalizer": normalizer}
    text = {model.id_to_piece(i): i for i in range(model.vocab_size()) if _is_text(model, i)}
    # scores of BPE are ranks, those of unigram log-probabilities, and so are those of single letters
    is_bpe = all(model.get_score(i).is_integer() for i in text.values())
    return {**file, "model": _bpe(model, text) if is_bpe else _unigram(model)}


def _unigram(model: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
    scores = {i: model.get_score(i) for i in range(model.vocab_size()) if _is_text(model, i)}
    # Of control pieces and bytes the library would make text too: so rare that any other way is likelier,
    # letter by letter, which takes at most 6 letters for <0x41>.
    never = 100 * min(scores.values()) - 100
    vocab = [[model.id_to_piece(i), scores.get(i, never)] for i in range(model.vocab_size())]
    return {"type": "Unigram", "unk_id": model.unk_id(), "vocab": vocab, "byte_fallback": True}


def _bpe(model: sentencepiece.SentencePieceProcessor, text: Mapping[str, int]) -> dict[str, Any]:
    # The model has no merges: any two pieces that make a third may merge, the likeliest first.
    ranked = sorted(text, key=lambda piece: -model.get_score(text[piece]))
    merges = [split for piece in ranked for split in _splits(piece) if text.keys() >= set(split)]
    byte_pieces = {model.id_to_piece(i): i for i in range(model.vocab_size()) if model.is_byte(i)}
    unknown = model.id_to_piece(model.unk_id())
    return {
        "type": "BPE",
        "unk_token": unknown,
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": {**text, **byte_pieces, unknown: model.unk_id()},
        "merges": merges,
    }


def _splits(piece: str) -> list[tuple[str, str]]:
    """The ways to make a piece of two, the longest left part first."""
    return [(piece[:i], piece[i:]) for i in range(len(piece) - 1, 0, -1)]
