"""Hugging Face's tokenizer.json, read with care: a file from anywhere, with fields of any type."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, JsonValue, ValidationError

# More than any vocabulary has: a list with a place for each id is made, and one large id would take all
# memory.
MAX_ID = 1 << 24
Id = Annotated[int, Field(ge=0, lt=MAX_ID, strict=True)]


class AddedPiece(BaseModel):
    """A piece beside the model's vocabulary, which text is searched for before it is tokenized."""

    id: Id
    content: Annotated[str, Field(min_length=1)]
    special: bool = False


class _File(BaseModel):
    model: dict[str, JsonValue]
    added_tokens: list[AddedPiece] = []
    normalizer: dict[str, JsonValue] | None = None
    pre_tokenizer: dict[str, JsonValue] | None = None
    decoder: dict[str, JsonValue] | None = None


class _Vocabulary(BaseModel):
    vocab: dict[str, Id] | list[tuple[str, float]]
    unk_token: str | None = None


def read_json_text(data: bytes, what: str, remedy: str) -> Any:
    """JSON that may be damaged or nested without end.

    Raises:
        ValueError: it is no JSON that can be read.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what}; {remedy}") from error


def added_pieces(file: Any, name: str) -> list[AddedPiece]:
    """The added pieces of a tokenizer.json, whose fields have been checked.

    Raises:
        ValueError: a field has another type than the format has there, or an id is too large.
    """
    if not isinstance(file, dict) or not isinstance(file.get("model"), dict):
        what = f"{name} is no Hugging Face tokenizer.json: it has no `model`"
        raise ValueError(f"{what}; name the right file")
    try:
        checked = _File.model_validate(file)
        # other kinds of models than these three are left to the library
        if file["model"].get("type", "BPE") in ("BPE", "Unigram", "WordPiece"):
            _Vocabulary.model_validate(file["model"])
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))[:80]
        what = f"{name} is no Hugging Face tokenizer.json: {field}={first['input']!r:.60}"
        raise ValueError(f"{what} ({first['msg']}); name the right file") from error
    return checked.added_tokens


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
        return lambda text: unicodedata.normalize("NFC", text)
    return str


def opened(file: dict[str, Any], name: str) -> Any:
    """The library's tokenizer of a file.

    Raises:
        ValueError: the library is not installed or cannot read the file.
    """
    try:
        import tokenizers
    except ImportError as error:
        remedy = "run `pip install 'meshwright[huggingface]'`"
        raise ValueError(f"{name} needs the library `tokenizers`; {remedy}") from error
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
        raise ValueError(f"{what}; name the right file") from error


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
