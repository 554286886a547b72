"""Tokenizers in Hugging Face's tokenizer.json: checked to keep every text exactly, with their control
pieces out of text's reach.
"""

import hashlib
import json
import re
from collections.abc import Container, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel

from data_pipeline.component import FrozenMap
from data_pipeline.files import write_bytes
from data_pipeline.tokenizers.control import CONTROL_PIECES, SPACE, SPACE_BYTES
from data_pipeline.tokenizers.fast_bpe import Encoder

BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
# What normalizers, pre-tokenizers and added pieces are known to change or lose: a tokenizer that gives all of
# these back exactly is taken to keep any text
PROBES = (
    " leading",
    "trailing ",
    "a  b   c",
    "\t\tif x:\r\n        return 0\n\n\n",
    "\0\x07\x1b\x7f\u2028\ufeff",
    "0123456789 ½ Ⅷ ①",  # NFKC rewrites the last three
    "UPPER Lower İ ẞ ſ",  # lowercasing does not come back
    "é e\u0301 ﬁ ﷺ K",  # composed and decomposed letters, ligatures, the Kelvin sign
    "Привет, мир!",
    "中文 日本語 한국어 ไทย हिन्दी",
    "🦊 👩\u200d🚀 🇫🇷",
    "▁ ▁▁ ▅ Ġ <0x41> \ufffd",  # what tokenizers themselves write spaces and bytes with
    "don't 'll (a) [b] , . ?",  # BERT's decoder joins these
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

    def make(
        self, sources: Mapping[str, Iterable[str]], path: Path, *, weights: Mapping[str, float]
    ) -> None:
        """Write the tokenizer to `path` with the names of its pieces; nothing is learned, so the texts are
        not read.

        Raises:
            ValueError: the file is no tokenizer.json, has no such piece, or does not keep text exactly.
            OSError: it cannot be read.
        """
        try:
            file = json.loads(Path(self.path).read_bytes())
        except ValueError as error:
            remedy = "name a Hugging Face tokenizer.json"
            raise ValueError(f"tokenizer.path={self.path} is not JSON; {remedy}") from error
        named = {
            "bos": self.bos,
            "eos": self.eos,
            "pad": self.pad or self.eos,
            "control": dict(self.control),
        }
        data = json.dumps({**named, "tokenizer": file}, ensure_ascii=False).encode()
        HuggingFaceModel(data, self.path)  # refuses what would not work, before anything is written
        write_bytes(path, data)


class Special(NamedTuple):
    """A piece that structures a token stream, and the white space beside it that it takes along where a
    template writes it (Phi-3's `<|end|>` takes the line break after it).
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
        library = _opened(plain, name)
        self._name = name
        self.chat_template = spec.get("chat_template") or ""

        vocabulary = library.get_vocab(with_added_tokens=True)
        added = library.get_added_tokens_decoder()
        self.special = {
            token.content: Special(i, token.lstrip, token.rstrip)
            for i, token in added.items()
            if token.special
        }
        for field in ("bos", "eos", "pad"):
            _check(field, spec[field], self.special, name)
        for ours, theirs in spec["control"].items():
            _check(f"control.{ours}", theirs, self.special, name)
        self.bos, self.eos, self.pad = (vocabulary[spec[field]] for field in ("bos", "eos", "pad"))
        # A piece that `control` does not map is used if the file has one of the same name.
        theirs_of = {ours: spec["control"].get(ours, ours) for ours in CONTROL_PIECES}
        self.control = {
            ours: vocabulary[theirs] for ours, theirs in theirs_of.items() if theirs in self.special
        }

        # byte-level files spell bytes with letters, the others with pieces such as <0x41>
        self._byte_level = '"ByteLevel"' in json.dumps(
            [file.get("pre_tokenizer"), file.get("decoder")]
        )
        silent = {*self.special, file["model"].get("unk_token")}
        self.pieces = self._pieces(vocabulary, silent=silent, as_written=added)
        self._space = (
            [] if self._byte_level else [vocabulary.get(piece, 0) for piece in SPACE_BYTES]
        )
        self._cut = _cuts(self.special)

        # the fast encoder must agree on hard texts and on every piece of the vocabulary
        probes = []
        for text in (*PROBES, "".join(vocabulary)):
            probes += self._parts(text.replace(SPACE, " "))

        def encode(part: str) -> list[int]:
            return library.encode(part, add_special_tokens=False).ids

        self._encode_part = Encoder(encode, lambda: plain, probes)
        for text in (*PROBES, *self.special):
            self.encode(text)  # refuses the file if the text does not come back

    def _pieces(
        self,
        vocabulary: Mapping[str, int],
        *,
        silent: Container[str | None],
        as_written: Container[int],
    ) -> list[bytes]:
        """The bytes of every id. Added pieces stand in the text as they are written, whatever the model does
        with spaces.
        """
        pieces = [b""] * (1 + max(vocabulary.values()))  # ids may have gaps
        for piece, i in vocabulary.items():
            if piece not in silent:
                pieces[i] = piece.encode() if i in as_written else self._bytes_of(piece)
        return pieces

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
            remedy = "decode its file with errors='replace'"
            raise ValueError(f"the text has a lone surrogate (U+D800-DFFF); {remedy}") from error
        # Where U+2581 means a space, the same letter in a text is spelled in bytes.
        stretches = [text] if self._byte_level else text.split(SPACE)
        ids: list[int] = []
        for n_before, stretch in enumerate(stretches):
            if n_before:
                ids += self._space
            for part in self._parts(stretch):
                ids += self._encode_part(part)
        back = b"".join([self.pieces[i] for i in ids])
        if back != data:
            what = f"{text!r:.60} comes back as {back.decode(errors='replace')!r:.60}"
            remedy = (
                "take a byte-level or byte-fallback tokenizer without normalizer or added space "
                "(add_prefix_space=false, prepend_scheme=never)"
            )
            raise ValueError(f"{self._name} does not keep text exactly: {what}; {remedy}")
        return ids

    def _parts(self, text: str) -> list[str]:
        """`text`, cut inside whatever would be read as a control piece."""
        cuts = [0, *(match.start() + 1 for match in self._cut.finditer(text)), len(text)]
        return [text[start:end] for start, end in pairwise(cuts)]


def _parsed(data: bytes, name: str) -> dict[str, Any]:
    try:
        spec = json.loads(data)
    except ValueError as error:
        what = f"{name} is neither a SentencePiece model nor JSON"
        raise ValueError(f"{what}; make the tokenizer again") from error
    if not {"bos", "eos", "pad", "control", "tokenizer"} <= set(spec):
        remedy = f"make it with HuggingFaceTokenizer(path={name!r}, bos=…, eos=…)"
        raise ValueError(f"{name} does not name its bos and eos; {remedy}")
    return spec


def _plain(file: Any, name: str) -> dict[str, Any]:
    """A tokenizer.json without what would make ids depend on anything but the text."""
    if not isinstance(file, dict) or not isinstance(file.get("model"), dict):
        what = f"{name} is no Hugging Face tokenizer.json: it has no `model`"
        raise ValueError(f"{what}; name the right file")
    # NFC leaves composed text as it is and would change other text; any other normalizer is refused by PROBES
    normalizer = file.get("normalizer")
    if normalizer == {"type": "NFC"}:
        normalizer = None
    # BPE dropout draws at random
    model = {**file["model"], "dropout": None}
    # and these add pieces, or make all texts equally long
    unused = {"truncation": None, "padding": None, "post_processor": None}
    return {**file, "normalizer": normalizer, "model": model, **unused}


def _opened(file: dict[str, Any], name: str) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        remedy = "run `pip install 'meshwright[huggingface]'`"
        raise ValueError(f"{name} needs the library `tokenizers`; {remedy}") from error
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(file))
    except Exception as error:  # the library has no narrower one
        what = f"{name} is no Hugging Face tokenizer.json that `tokenizers` can read ({error})"
        raise ValueError(f"{what}; name the right file") from error


def _check(field: str, piece: str, special: Mapping[str, Special], name: str) -> None:
    if piece not in special:
        choices = ", ".join(sorted(special)) or "none"
        raise ValueError(
            f"tokenizer.{field}={piece!r} is no special piece of {name}; choose one of {choices}"
        )


def _cuts(special: Iterable[str]) -> re.Pattern[str]:
    """Where a control piece, as it is written or with its spaces as letters, or the name of a byte begins."""
    written = {form for piece in special for form in (piece, piece.replace(SPACE, " "))}
    forms = [BYTE_PIECE.pattern, *map(re.escape, sorted(written))]
    # A lookahead, so that beginnings inside another piece are found too.
    return re.compile(f"(?={'|'.join(forms)})")


def _letter_to_byte() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes with (Radford et al. 2019): printable Latin-1 is
    itself, the rest U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    codes = [*printable, *range(0x100, 0x100 + len(rest))]
    return {chr(code): byte for code, byte in zip(codes, printable + rest, strict=True)}


LETTER_TO_BYTE = _letter_to_byte()
