"""Hugging Face's tokenizer.json, read with care: a file from anywhere, with fields of any type."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, FailFast, Field, JsonValue, ValidationError

# More than any vocabulary has: a list with a place for each id is made, and one large id would take all
# memory.
MAX_ID = 1 << 24
Id = Annotated[int, Field(ge=0, lt=MAX_ID, strict=True)]
# The largest that are known have 33 MB; JSON of brackets alone takes 30 times its size in memory.
MAX_FILE_BYTES = 1 << 27
MAX_ADDED = 1 << 17  # the most that are known are some thousands
AGAIN = "name the right file, or download it again"


class Unusable(ValueError):
    """A sound tokenizer that cannot serve here: it changes texts, or its library is not installed."""


class AddedPiece(BaseModel):
    """A piece beside the model's vocabulary, which text is searched for before it is tokenized."""

    id: Id
    content: Annotated[str, Field(min_length=1)]
    special: bool = False


class _File(BaseModel):
    model: dict[str, Any]  # with millions of entries, see `_check_vocabulary`
    added_tokens: Annotated[list[AddedPiece], FailFast(), Field(max_length=MAX_ADDED)] = []
    normalizer: dict[str, JsonValue] | None = None
    pre_tokenizer: dict[str, JsonValue] | None = None
    decoder: dict[str, JsonValue] | None = None


def read_json_text(data: bytes, what: str, remedy: str) -> Any:
    """JSON that may be damaged or nested without end.

    Raises:
        ValueError: it is no JSON that can be read.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what}; {remedy}") from error


def read_tokenizer_json(path: Path, remedy: str) -> Any:
    """The JSON of a tokenizer.json.

    Raises:
        ValueError: it is no JSON that can be read, or larger than any. OSError: it cannot be read.
    """
    n_bytes = path.stat().st_size
    if n_bytes > MAX_FILE_BYTES:
        rule = f"a tokenizer.json has at most {MAX_FILE_BYTES:,}"
        raise ValueError(f"{path} has {n_bytes:,} bytes, and {rule}; {remedy}")
    return read_json_text(path.read_bytes(), f"{path} is not JSON", remedy)


def added_pieces(file: Any, name: str) -> list[AddedPiece]:
    """The added pieces of a tokenizer.json, whose fields have been checked.

    Raises:
        ValueError: a field has another type than the format has there, or an id is too large.
    """
    if not isinstance(file, dict) or not isinstance(file.get("model"), dict):
        what = f"{name} is no Hugging Face tokenizer.json: it has no `model`"
        raise ValueError(f"{what}; {AGAIN}")
    try:
        checked = _File.model_validate(file)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))[:80]
        what = f"{name} is no Hugging Face tokenizer.json: {field}={first['input']!r:.60}"
        raise ValueError(f"{what} ({first['msg']}); {AGAIN}") from error
    _check_vocabulary(file["model"], name)
    return checked.added_tokens


def _check_vocabulary(model: Mapping[str, Any], name: str) -> None:
    """Refuse a vocabulary whose entries are none; the library says of all wrong fields the same."""
    vocab = model.get("vocab")
    # a list of pieces and scores, or the ids by piece
    entries: Iterable[tuple[Any, Any]] = vocab.items() if isinstance(vocab, dict) else ()
    if not isinstance(vocab, dict | list | None):
        raise ValueError(f"{name}: model.vocab={vocab!r:.60} is no vocabulary; {AGAIN}")
    for piece, i in entries:
        if type(i) is not int or not 0 <= i < MAX_ID:
            rule = f"must be an integer from 0 to {MAX_ID - 1}"
            raise ValueError(f"{name}: model.vocab.{piece:.40}={i!r:.60} {rule}; {AGAIN}")
    if not isinstance(model.get("unk_token"), str | None):
        raise ValueError(f"{name}: model.unk_token must be a text; {AGAIN}")


def plain_file(file: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer.json without what would make ids depend on anything but the text."""
    # BPE dropout draws at random
    model = {**file["model"], "dropout": None}
    # and these add pieces, or make all texts equally long
    unused = {"truncation": None, "padding": None, "post_processor": None}
    # NFC is applied before a text is cut into parts, see `normalization`
    normalizer = file.get("normalizer")
    if normalizer == {"type": "NFC"}:
        normalizer = None
    return {**file, "normalizer": normalizer, "model": model, **unused}


def normalization(file: Mapping[str, Any]) -> Callable[[str], str]:
    """What the file's normalizer does to a text before anything else: NFC, or nothing. Any other change is
    refused where a text does not come back.
    """
    normalizer = file.get("normalizer") or {}
    steps = [normalizer]
    if normalizer.get("type") == "Sequence" and isinstance(normalizer.get("normalizers"), list):
        steps = normalizer["normalizers"]
    if any(isinstance(step, dict) and step.get("type") == "NFC" for step in steps):
        return _nfc()
    return str


def _nfc() -> Callable[[str], str]:
    """NFC of the library, whose Unicode is older than Python's, and the same under every Python."""
    from tokenizers.normalizers import NFC

    nfc = NFC()

    def normalized(text: str) -> str:
        # Nearly all text is in NFC, which Python sees ten times as fast; no version takes that back.
        return text if unicodedata.is_normalized("NFC", text) else nfc.normalize_str(text)

    return normalized


def opened(file: dict[str, Any], name: str) -> Any:
    """The library's tokenizer of a file.

    Raises:
        ValueError: the library is not installed or cannot read the file.
    """
    try:
        import tokenizers
    except ImportError as error:
        remedy = "run `pip install 'meshwright[huggingface]'`"
        raise Unusable(f"{name} needs the library `tokenizers`; {remedy}") from error
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(file))
    except KeyboardInterrupt:
        raise
    except (
        BaseException
    ) as error:  # the library has no narrower one, and its panics are none of Exception
        words = str(error).splitlines()[:1] or [type(error).__name__]
        what = (
            f"{name} is no Hugging Face tokenizer.json that `tokenizers` can read ({words[0]:.200})"
        )
        raise ValueError(f"{what}; {AGAIN}") from error


# <|im_end|>, <｜User｜>: what no text has by chance, whether or not the file calls it special
LOOKS_LIKE_CONTROL = re.compile(r"<[|｜].+[|｜]>")


def structuring(
    added: Iterable[AddedPiece], *, named: Iterable[str], template: str
) -> list[AddedPiece]:
    """The added pieces that structure a token stream, so that no text may produce them: those that the file
    calls special, that have a role here, that look like it, and that the chat template writes. The rest,
    such as runs of line breaks and tags of HTML, are text.
    """
    named = set(named)

    def structures(piece: AddedPiece) -> bool:
        if piece.special or piece.content in named:
            return True
        if LOOKS_LIKE_CONTROL.fullmatch(piece.content):
            return True
        # templates write line breaks and spaces as text
        return piece.content in template and len(piece.content.strip("▁ \t\r\n")) > 1

    return [piece for piece in added if structures(piece)]
