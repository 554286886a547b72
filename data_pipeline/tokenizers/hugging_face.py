"""Tokenizers in Hugging Face's tokenizer.json: checked to keep every text exactly, with their control
pieces out of text's reach.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel

from data_pipeline.component import FrozenMap
from data_pipeline.files import write_bytes
from data_pipeline.tokenizers.control import CONTROL_PIECES, SPACE, SPACE_BYTES
from data_pipeline.tokenizers.fast_bpe import Encoder

BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
# What normalizers, pre-tokenizers and added pieces are known to change or lose
PROBES = (
    *(
        " leading",
        "trailing ",
        "a  b   c",
        "\t\tif x:\r\n        return 0\n\n\n",
        "\0\x07\x1b\x7f\u2028\ufeff",
        "0123456789 ½ Ⅷ ①",
    ),
    *(
        "UPPER Lower İ ẞ ſ",
        "é e\u0301 ﬁ ﷺ K",
        "Привет, мир!",
        "中文 日本語 한국어 ไทย हिन्दी",
        "🦊 👩\u200d🚀 🇫🇷",
        "▁ ▁▁ ▅ Ġ <0x41> \ufffd",
    ),
    "don't 'll (a) [b] , . ?",
)


class HuggingFaceTokenizer(BaseModel, frozen=True, extra="forbid", strict=True):
    """A finished tokenizer, for where `SentencePiece` would train one.

    Attributes:
        path: Its tokenizer.json.
        bos: The piece that opens a document; the file does not say which.
        eos: The piece that closes it; it may be the same.
        pad: The piece that fills rows; None = `eos`.
        control: Our control piece → the file's, such as `<|end|>` → `<|im_end|>`, where they differ: for
        chat, fill-in-the-middle, tools.
    """

    VERSION: ClassVar[int] = 1

    path: str
    bos: str
    eos: str
    pad: str | None = None
    control: FrozenMap[Literal[CONTROL_PIECES], str] = FrozenMap()

    def fingerprint(self) -> str:
        """SHA-256 of the file.

        Raises:
            OSError: it cannot be read.
        """
        return hashlib.sha256(Path(self.path).read_bytes()).hexdigest()

    def make(self, sources: Mapping[str, Iterable[str]], path: Path, *, weights: Mapping[str, float]) -> None:
        """Write the tokenizer to `path` with the names of its pieces; nothing is learned, so the texts are
        not read.

        Raises:
            ValueError: the file is no tokenizer.json, has no such piece, or does not keep text exactly.
            OSError: it cannot be read.
        """
        try:
            file = json.loads(Path(self.path).read_bytes())
        except ValueError as error:
            raise ValueError(
                f"tokenizer.path={self.path} is not JSON; name a Hugging Face tokenizer.json"
            ) from error
        named = {"bos": self.bos, "eos": self.eos, "pad": self.pad or self.eos, "control": dict(self.control)}
        data = json.dumps({**named, "tokenizer": file}, ensure_ascii=False).encode()
        HuggingFaceModel(data, self.path)
        write_bytes(path, data)


class Special(NamedTuple):
    """A piece that structures a token stream, and the white space beside it that it takes along where a
    template writes it (Phi-3's `<|end|>` takes the line break behind it).
    """

    id: int
    strips_left: bool
    strips_right: bool


class HuggingFaceModel:
    """A tokenizer.json with names, as `HuggingFaceTokenizer` wrote it and `Tokenizer` uses it.

    Attributes:
        pieces: The bytes that each id stands for; none for control ids.
        control: Our control piece → id, of those that the file has.
        special: All special pieces of the file, under its own names.
        chat_template: Jinja that came with the file; "" where none did.

    Raises:
        ValueError: as in `HuggingFaceTokenizer.make`.
    """

    def __init__(self, data: bytes, name: str):
        spec = _parsed(data, name)
        file = spec["tokenizer"]
        plain = _plain(file, name)
        self._name, library = name, _opened(plain, name)
        vocabulary = library.get_vocab(with_added_tokens=True)
        added = library.get_added_tokens_decoder()
        self.special = {
            token.content: Special(i, token.lstrip, token.rstrip)
            for i, token in added.items()
            if token.special
        }
        self.chat_template = spec.get("chat_template") or ""
        special = set(self.special)
        named = {ours: spec["control"].get(ours, ours) for ours in CONTROL_PIECES}
        for field in ("bos", "eos", "pad"):
            _check(field, spec[field], special, name)
        for ours, piece in spec["control"].items():
            _check(f"control.{ours}", piece, special, name)
        self.bos, self.eos, self.pad = (vocabulary[spec[field]] for field in ("bos", "eos", "pad"))
        self.control = {ours: vocabulary[piece] for ours, piece in named.items() if piece in special}
        self._byte_level = '"ByteLevel"' in json.dumps([file.get("pre_tokenizer"), file.get("decoder")])
        silent = special | {file["model"].get("unk_token")}
        self.pieces = [b""] * (1 + max(vocabulary.values()))
        for piece, i in vocabulary.items():
            self.pieces[i] = (
                b"" if piece in silent else piece.encode() if i in added else self._bytes_of(piece)
            )
        self._space = [] if self._byte_level else [vocabulary.get(piece, 0) for piece in SPACE_BYTES]
        self._cut = _cuts(special)
        parts = [
            part
            for probe in (*PROBES, "".join(vocabulary))
            for part in self._parts(probe.replace(SPACE, " "))
        ]
        self._part = Encoder(
            lambda part: library.encode(part, add_special_tokens=False).ids, lambda: plain, parts
        )
        for probe in (*PROBES, *special):
            self.encode(probe)

    def _bytes_of(self, piece: str) -> bytes:
        if self._byte_level:
            return bytes(LETTER_TO_BYTE[letter] for letter in piece if letter in LETTER_TO_BYTE)
        if byte := BYTE_PIECE.fullmatch(piece):
            return bytes.fromhex(byte[1])
        return piece.replace(SPACE, " ").encode()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`.

        Raises:
            ValueError: it has a lone surrogate, or would not come back exactly.
        """
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                "the text has a lone surrogate (U+D800-DFFF); decode its file with errors='replace'"
            ) from error
        ids: list[int] = []
        for n_before, stretch in enumerate([text] if self._byte_level else text.split(SPACE)):
            ids += self._space if n_before else []
            for part in self._parts(stretch):
                ids += self._part(part)
        back = b"".join([self.pieces[i] for i in ids])
        if back != data:
            raise ValueError(
                f"{self._name} does not keep text exactly: {text!r:.60} comes back as {back.decode(errors='replace')!r:.60}; take a "
                "byte-level or byte-fallback tokenizer without normalizer or added space (add_prefix_space=false, prepend_scheme=never)"
            )
        return ids

    def _parts(self, text: str) -> list[str]:
        """`text`, cut inside whatever would be read as a control piece."""
        cuts = [0, *(match.start() + 1 for match in self._cut.finditer(text)), len(text)]
        return [text[start:end] for start, end in pairwise(cuts)]


def _parsed(data: bytes, name: str) -> dict[str, Any]:
    try:
        spec = json.loads(data)
    except ValueError as error:
        raise ValueError(
            f"{name} is neither a SentencePiece model nor JSON; make the tokenizer again"
        ) from error
    if not {"bos", "eos", "pad", "control", "tokenizer"} <= set(spec):
        raise ValueError(
            f"{name} does not name its bos and eos; make it with HuggingFaceTokenizer(path={name!r}, bos=…, eos=…)"
        )
    return spec


def _plain(file: Any, name: str) -> dict[str, Any]:
    """A tokenizer.json without what would make ids depend on anything but the text."""
    if not isinstance(file, dict) or not isinstance(file.get("model"), dict):
        raise ValueError(f"{name} is no Hugging Face tokenizer.json: it has no `model`; name the right file")
    # NFC leaves composed text as it is and would change other text
    normalizer = None if file.get("normalizer") == {"type": "NFC"} else file.get("normalizer")
    plain = {**file, "normalizer": normalizer, "truncation": None, "padding": None, "post_processor": None}
    return {**plain, "model": {**file["model"], "dropout": None}}


def _opened(file: dict[str, Any], name: str) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError(
            f"{name} needs the library `tokenizers`; run `pip install 'meshwright[huggingface]'`"
        ) from error
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(file))
    except Exception as error:  # the library has no narrower one
        raise ValueError(
            f"{name} is no Hugging Face tokenizer.json that `tokenizers` can read ({error}); name the right file"
        ) from error


def _check(field: str, piece: str, special: set[str], name: str) -> None:
    if piece not in special:
        raise ValueError(
            f"tokenizer.{field}={piece!r} is no special piece of {name}; choose one of {', '.join(sorted(special)) or 'none'}"
        )


def _cuts(special: Iterable[str]) -> re.Pattern[str]:
    """Where a control piece, as it is written or with its spaces as letters, or the name of a byte begins."""
    written = {form for piece in special for form in (piece, piece.replace(SPACE, " "))}
    return re.compile(f"(?={'|'.join([BYTE_PIECE.pattern, *map(re.escape, sorted(written))])})")


def _letter_to_byte() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes with (Radford et al. 2019): printable Latin-1 is
    itself, the rest U+0100 on.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {
        chr(code): byte
        for code, byte in zip([*plain, *range(0x100, 0x100 + len(rest))], plain + rest, strict=True)
    }


LETTER_TO_BYTE = _letter_to_byte()
