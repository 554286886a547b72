"""Tokenizers in Hugging Face's tokenizer.json: checked to keep every text exactly, with their control
pieces out of text's reach.
"""

import hashlib
import json
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel

from data_pipeline.component import FrozenMap, PathText
from data_pipeline.files import write_bytes
from data_pipeline.tokenizers.chat_files import chat_of_folder
from data_pipeline.tokenizers.control import (
    CONTROL_PIECES,
    FIM_PIECES,
    FIM_SPELLINGS,
    SPACE,
    SPACE_BYTES,
)
from data_pipeline.tokenizers.fast_bpe import Encoder
from data_pipeline.tokenizers.tokenizer_json import (
    AddedPiece,
    Unusable,
    added_pieces,
    normalization,
    opened,
    plain_file,
    read_json_text,
    read_tokenizer_json,
    structuring,
)
from data_pipeline.tokenizers.trial import check_in_child, long_texts, try_splitting

NAME_A_FILE = "name a Hugging Face tokenizer.json"
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

    VERSION: ClassVar[int] = 3

    path: PathText
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
        file = read_tokenizer_json(Path(self.path), NAME_A_FILE)
        named = {
            "bos": self.bos,
            "eos": self.eos,
            "pad": self.pad or self.eos,
            "control": dict(self.control),
            # so that a model that is trained on has the chat format that it came with
            **chat_of_folder(Path(self.path).parent),
        }
        spec = {**named, "tokenizer": file}
        check_in_child(spec, self.path)
        write_bytes(path, json.dumps(spec).encode())


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
        chat_pieces: What that template may name: `bos_token`, `eos_token` and so on → the piece.
        normalized: What the file does to a text before anything else: NFC, or nothing.

    Raises:
        ValueError: as in `HuggingFaceTokenizer.make`.
    """

    def __init__(self, data: bytes, name: str):
        spec = _parsed(data, name)
        file = spec["tokenizer"]
        added = added_pieces(file, name)
        plain = plain_file(file)
        library = opened(plain, name)
        self._name = name
        self.chat_template = spec.get("chat_template") or ""
        self.normalized = normalization(file)

        vocabulary = library.get_vocab(with_added_tokens=True)
        uses = self._name_pieces(spec, library, vocabulary, added)
        # byte-level files spell bytes with letters, the others with pieces such as <0x41>
        self._byte_level = '"ByteLevel"' in json.dumps(
            [file.get("pre_tokenizer"), file.get("decoder")]
        )
        # Others that structure a text, such as <think>, are shown as they are written.
        silent = {piece.content for piece in added if piece.special}
        silent |= {*uses, file["model"].get("unk_token")}
        as_written = {vocabulary[piece.content] for piece in added}
        self.pieces = self._pieces(vocabulary, silent=silent, as_written=as_written)
        self._space = (
            [] if self._byte_level else [vocabulary.get(piece, 0) for piece in SPACE_BYTES]
        )
        self._cut = _cuts(self.special, matches_bytes=_matches_bytes(file["model"]))

        # the fast encoder must agree on hard texts and on every piece of the vocabulary
        probes = []
        for text in (*PROBES, "".join(vocabulary)):
            probes += self._parts(text.replace(SPACE, " "))

        def encode(part: str) -> list[int]:
            return library.encode(part, add_special_tokens=False).ids

        self._encode_part = Encoder(encode, lambda: plain, probes)
        for text in (*PROBES, *self.special):
            self.encode(text)  # refuses the file if the text does not come back

    def _name_pieces(
        self,
        spec: Mapping[str, Any],
        library: Any,
        vocabulary: Mapping[str, int],
        added: Sequence[AddedPiece],
    ) -> set[str]:
        """Set the pieces that structure a text, by name and role; returns those that have a role."""
        named = {field: spec[field] for field in ("bos", "eos", "pad")}
        theirs_of = _control_names(spec["control"], {piece.content for piece in added})
        uses = {*named.values(), *theirs_of.values()}
        flags = library.get_added_tokens_decoder()
        self.special = {}
        for piece in structuring(added, named=uses, template=self.chat_template):
            # an id of the library's own, should it differ from the file's
            i = vocabulary[piece.content]
            self.special[piece.content] = Special(i, flags[i].lstrip, flags[i].rstrip)
        for field, piece in (*named.items(), *spec["control"].items()):
            _check(field if field in named else f"control.{field}", piece, self.special, self._name)
        self._name_ids(spec, vocabulary)
        self.control = {
            ours: vocabulary[theirs] for ours, theirs in theirs_of.items() if theirs in self.special
        }
        pieces = {"bos_token": spec["bos"], "eos_token": spec["eos"]}
        self.chat_pieces: dict[str, str] = spec.get("chat_pieces", pieces)
        return uses

    def _name_ids(self, spec: Mapping[str, Any], vocabulary: Mapping[str, int]) -> None:
        """The ids that begin, end and fill texts, and whether the file begins a text with bos."""
        self.bos, self.eos, self.pad = (vocabulary[spec[field]] for field in ("bos", "eos", "pad"))
        self.adds_bos = opens_with(spec["tokenizer"].get("post_processor"), self.bos)
        # ids beyond the vocabulary can never be chosen
        known = set(vocabulary.values())
        self.further_stop_ids = tuple(i for i in spec.get("stop_ids", ()) if i in known)

    def _pieces(
        self,
        vocabulary: Mapping[str, int],
        *,
        silent: Container[str | None],
        as_written: Container[int],
    ) -> list[bytes]:
        """The bytes of every id. Added pieces are no letters that stand for bytes; spaces they write as the
        model does (Gemma's runs of them).
        """
        pieces = [b""] * (1 + max(vocabulary.values()))  # ids may have gaps
        for piece, i in vocabulary.items():
            if piece not in silent:
                spaced = piece if self._byte_level else piece.replace(SPACE, " ")
                pieces[i] = spaced.encode() if i in as_written else self._bytes_of(piece)
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
            text.encode()  # before the library is given the text
        except UnicodeEncodeError as error:
            remedy = "decode its file with errors='replace'"
            raise ValueError(f"the text has a lone surrogate (U+D800-DFFF); {remedy}") from error
        text = self.normalized(text)
        # Where U+2581 means a space, the same letter in a text is spelled in bytes.
        stretches = [text] if self._byte_level else text.split(SPACE)
        ids: list[int] = []
        for n_before, stretch in enumerate(stretches):
            if n_before:
                ids += self._space
            for part in self._parts(stretch):
                ids += self._encode_part(part)
        back = b"".join([self.pieces[i] for i in ids])
        if back != text.encode():
            what = f"{text!r:.60} comes back as {back.decode(errors='replace')!r:.60}"
            remedy = (
                "take a byte-level or byte-fallback tokenizer without normalizer or added space "
                "(add_prefix_space=false, prepend_scheme=never)"
            )
            raise Unusable(f"{self._name} does not keep text exactly: {what}; {remedy}")
        return ids

    def _parts(self, text: str) -> list[str]:
        """`text`, cut inside whatever would be read as a control piece."""
        cuts = [0, *(match.start() + 1 for match in self._cut.finditer(text)), len(text)]
        return [text[start:end] for start, end in pairwise(cuts)]


def opens_with(processor: Any, i: int) -> bool:
    """Whether the post-processor of a tokenizer.json puts the piece of id i in front of a text."""
    match processor:
        case {"type": "Sequence", "processors": [*each]}:
            return any(opens_with(one, i) for one in each)
        case {"type": "RobertaProcessing" | "BertProcessing", "cls": [_, first]}:
            return first == i
        # what a single text becomes: special tokens by name, and the text itself
        case {"single": [{"SpecialToken": {"id": str(name)}}, *_], "special_tokens": {**named}}:
            return named.get(name, {}).get("ids") == [i]
    return False


def _parsed(data: bytes, name: str) -> dict[str, Any]:
    what = f"{name} is neither a SentencePiece model nor JSON"
    spec = read_json_text(data, what, "make the tokenizer again")
    if not {"bos", "eos", "pad", "control", "tokenizer"} <= set(spec):
        remedy = f"make it with HuggingFaceTokenizer(path={name!r}, bos=…, eos=…)"
        raise ValueError(f"{name} does not name its bos and eos; {remedy}")
    return spec


def _check(field: str, piece: str, special: Mapping[str, Special], name: str) -> None:
    if piece not in special:
        choices = ", ".join(sorted(special)) or "none"
        raise Unusable(
            f"tokenizer.{field}={piece!r} is no special piece of {name}; choose one of {choices}"
        )


def _control_names(control: Mapping[str, str], added: Container[str]) -> dict[str, str]:
    """Our control piece → the file's: as `control` says, else one of the same name, and for
    fill-in-the-middle one of the spellings that are known.
    """
    names = {ours: control.get(ours, ours) for ours in CONTROL_PIECES}
    if not any(control.get(piece, piece) in added for piece in FIM_PIECES):
        for spelling in FIM_SPELLINGS:
            if all(piece in added for piece in spelling):
                names.update(zip(FIM_PIECES, spelling, strict=True))
                break
    return names


def try_out(request: bytes) -> bytes:
    """The child's side of `check_in_child`: a tokenizer with names, or a file that only cuts texts.

    Raises:
        ValueError: the tokenizer does not work.
    """
    spec, name = json.loads(request)
    if "tokenizer" not in spec:
        try_splitting(spec, name)
        return b""
    model = HuggingFaceModel(json.dumps(spec).encode(), name)  # refuses what would not work
    for text in long_texts(spec["tokenizer"]):
        model.encode(text)
    return b""


def _matches_bytes(model: Mapping[str, Any]) -> bool:
    """Whether the model can read the five letters <0x41> of a text as the piece of that byte."""
    if not model.get("byte_fallback"):
        return False
    # A unigram model finds any piece in a text, and so does BPE that looks whole words up first.
    if model.get("type", "BPE") != "BPE" or model.get("ignore_merges"):
        return True
    # Otherwise BPE makes what its merges make; newer files have them as pairs, older ones with a space.
    merges = model.get("merges", ())
    pairs = (each.split(" ", 1) if isinstance(each, str) else each for each in merges)
    # of half a million merges few end so, and joining all takes a second
    return any(
        second.endswith(">") and BYTE_PIECE.fullmatch(first + second) for first, second in pairs
    )


def _cuts(special: Iterable[str], *, matches_bytes: bool) -> re.Pattern[str]:
    """Where a control piece, as it is written or with its spaces as letters, or the name of a byte begins."""
    written = {form for piece in special for form in (piece, piece.replace(SPACE, " "))}
    forms = list(map(re.escape, sorted(written)))
    # Elsewhere the letters are those of a text, which a cut would give other ids than the file's.
    if matches_bytes:
        forms.append(BYTE_PIECE.pattern)
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
