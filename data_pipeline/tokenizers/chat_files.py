"""The chat template that lies beside a tokenizer.json, and the pieces that it may name."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from data_pipeline.tokenizers.tokenizer_json import read_json_text

# What transformers hands a template under these names, where tokenizer_config.json has them.
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class _Piece(BaseModel):
    content: str


class _Named(BaseModel):
    name: str
    template: str


class Settings(BaseModel):
    """The fields of tokenizer_config.json that are read here."""

    bos_token: str | _Piece | None = None
    eos_token: str | _Piece | None = None
    unk_token: str | _Piece | None = None
    sep_token: str | _Piece | None = None
    pad_token: str | _Piece | None = None
    cls_token: str | _Piece | None = None
    mask_token: str | _Piece | None = None
    chat_template: str | list[_Named] | None = None

    @property
    def pieces(self) -> dict[str, str]:
        """Name → piece, of those that are set: older files have the text itself, newer ones an object."""
        values = {name: value for name, value in self if name in NAMES and value is not None}
        return {
            name: value if isinstance(value, str) else value.content
            for name, value in values.items()
        }

    @property
    def template(self) -> str | None:
        """The template; of several by name ("default", "tool_use"), the default."""
        if isinstance(self.chat_template, list):
            named = {each.name: each.template for each in self.chat_template}
            return named.get("default")
        return self.chat_template


def read_settings(folder: Path) -> Settings:
    """The settings of a folder's tokenizer, with the template that newer ones keep in a file of its own.

    Raises:
        ValueError: tokenizer_config.json is no JSON, or has a field of another type; the template is no text.
    """
    file = folder / "tokenizer_config.json"
    values: Any = {}
    if file.exists():
        remedy = "mend or remove it"
        values = read_json_text(file.read_bytes(), f"{file} is not JSON", remedy)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"][:1])) or "its top level"
        what = f"{file}: {field}={first['input']!r:.60} has a type that it cannot have there"
        raise ValueError(f"{what} ({first['msg']}); correct the field") from error
    own_file = folder / "chat_template.jinja"
    if own_file.exists():
        try:
            template = own_file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{own_file} is no UTF-8 text; mend or remove it") from error
        settings = settings.model_copy(update={"chat_template": template})
    return settings


def chat_of_folder(folder: Path) -> dict[str, Any]:
    """`chat_template` and `chat_pieces` as our tokenizer files hold them; empty where there is no template.

    Raises:
        ValueError: as in `read_settings`.
    """
    settings = read_settings(folder)
    if not settings.template:
        return {}
    return {"chat_template": settings.template, "chat_pieces": settings.pieces}
