"""Which column of a table, or key of a JSON object, fills which field of a `Document`."""

import datetime
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from data_pipeline.documents.document import Document, content_id
from data_pipeline.documents.drops import Drops


class Columns(BaseModel, frozen=True, extra="forbid", strict=True):
    """Names of columns; "meta.url" is `url` inside `meta` (unless a column has that very name), "" is none.

    Attributes:
        text: The text.
        path: What names the row: a URL or an identifier; without it, its file and place.
        group: The unit of the held-out split; without it the path, of a URL what stands before "?" and "#".
        language: As in `Document`.
        licence: As in `Document`.
        time: As in `Document`; a timestamp is written in ISO 8601.
    """

    text: str = "text"
    path: str = ""
    group: str = ""
    language: str = ""
    licence: str = ""
    time: str = ""

    def wanted(self) -> tuple[str, ...]:
        """The columns that are read, each once."""
        return tuple(dict.fromkeys(name for name in self.model_dump().values() if name))

    def document(
        self, row: Mapping[str, Any], place: str, source: str, drops: Drops
    ) -> Document | None:
        """The document of a row; None, counted with `place`, when a value is not what its field needs."""
        values = {field: value_in(row, name) for field, name in self.model_dump().items()}
        text = values.pop("text")
        if not isinstance(text, str) or not text.strip():
            drops.add(source, "row_without_text", place)
            return None
        try:
            fields = {field: as_text(value) for field, value in values.items()}
            # Parquet holds UTF-8 alone, so what it cannot hold is found here, where the row is known
            "".join((text, *fields.values())).encode()
        except TypeError as error:
            drops.add(source, "row_bad_value", f"{place}: {error}")
            return None
        except UnicodeEncodeError:  # "\ud800" in JSON: half a character
            drops.add(source, "row_not_unicode", place)
            return None
        # An empty string counts as missing: many tables have empty cells for null.
        path = fields.pop("path") or place
        # Without a column of groups every page is one: its versions then stay on one side.
        group = fields.pop("group") or _group_of(path)
        return Document(content_id(text), text, source, path, group, **fields)


def _group_of(path: str) -> str:
    """A page is one group, whatever it was asked with."""
    return path.split("#")[0].split("?")[0] if "://" in path else path


def value_in(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column or of one inside it; None where there is none."""
    if name in row or "." not in name:
        return row.get(name)
    # as in "meta.url"; deeper ones by calling again
    outer, _, inner = name.partition(".")
    value = row.get(outer)
    return value_in(value, inner) if isinstance(value, Mapping) else None


def as_text(value: Any) -> str:
    """A value other than the text, in words.

    Raises:
        TypeError: It is a list, an object or bytes.
    """
    if value is None:
        return ""
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None:  # without a zone: taken as UTC
            value = value.astimezone(datetime.UTC)
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, str | int | float | Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no text")
