"""Strings that know which message each of their characters came from, whatever a template does to them."""

import json
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

OWN = "\0"  # the origin of what the template itself writes; messages have chr(1), chr(2), ...
STAND_IN = 0xF0000  # a private plane of Unicode: no letter of a template's text is in it


class Tracked(str):
    """A string with an origin for each character. Its value is that of a plain string, so a template that
    compares, searches or measures it does what it would do without the origins.

    `_origins` is a string of the same length: what cuts and joins the text cuts and joins it alike. Jinja's
    sandbox keeps names with an underscore from templates.
    """

    def __new__(cls, text: str, origins: str):
        tracked = super().__new__(cls, text)
        tracked._origins = origins
        return tracked

    # Jinja calls str() on what it writes, which would make a plain string of it.
    def __str__(self) -> str:
        return self

    def __getitem__(self, key: Any) -> "Tracked":
        return Tracked(super().__getitem__(key), self._origins[key])

    def __iter__(self):
        return map(self.__getitem__, range(len(self)))

    def __add__(self, other: Any) -> Any:
        return joined((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return joined((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, n: Any) -> "Tracked":
        return Tracked(super().__mul__(n), self._origins * max(0, n))

    __rmul__ = __mul__

    def lstrip(self, chars: str | None = None) -> "Tracked":
        return self[len(self) - len(super().lstrip(chars)) :]

    def rstrip(self, chars: str | None = None) -> "Tracked":
        return self[: len(super().rstrip(chars))]

    def strip(self, chars: str | None = None) -> "Tracked":
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str) -> "Tracked":
        return self[len(self) - len(super().removeprefix(prefix)) :]

    def removesuffix(self, suffix: str) -> "Tracked":
        return self[: len(super().removesuffix(suffix))]

    def split(self, sep: str | None = None, maxsplit: int = -1) -> list["Tracked"]:
        return self._located(super().split(sep, maxsplit), gap=len(sep or ""))

    def rsplit(self, sep: str | None = None, maxsplit: int = -1) -> list["Tracked"]:
        return self._located(super().rsplit(sep, maxsplit), gap=len(sep or ""))

    def splitlines(self, keepends: bool = False) -> list["Tracked"]:
        return self._located(super().splitlines(keepends), gap=0)

    def partition(self, sep: str) -> tuple["Tracked", ...]:
        return tuple(self._located(super().partition(sep), gap=0))

    def rpartition(self, sep: str) -> tuple["Tracked", ...]:
        return tuple(self._located(super().rpartition(sep), gap=0))

    def join(self, items: Iterable[str]) -> str:
        pieces: list[str] = []
        for item in items:
            pieces += [self, item] if pieces else [item]
        return joined(pieces)

    def replace(self, old: str, new: str, count: int = -1) -> str:
        if not old:  # stands between all characters
            return tainted(super().replace(old, new, count), (self, new))
        return own(new).join(self.split(old, count))

    def upper(self) -> "Tracked":
        return self._mapped(str.upper)

    def lower(self) -> "Tracked":
        return self._mapped(str.lower)

    def casefold(self) -> "Tracked":
        return self._mapped(str.casefold)

    def swapcase(self) -> "Tracked":
        return self._mapped(str.swapcase)

    def title(self) -> "Tracked":
        return self._mapped(str.title)

    def capitalize(self) -> "Tracked":
        return self._mapped(str.capitalize)

    def center(self, *args: Any) -> str:
        return shadowed(lambda text: text.center(*args), self)

    def ljust(self, *args: Any) -> str:
        return shadowed(lambda text: text.ljust(*args), self)

    def rjust(self, *args: Any) -> str:
        return shadowed(lambda text: text.rjust(*args), self)

    def zfill(self, width: int) -> str:
        return tainted(super().zfill(width), self)

    def expandtabs(self, *args: Any) -> str:
        return tainted(super().expandtabs(*args), self)

    def translate(self, table: Any) -> str:
        return tainted(super().translate(table), self)

    def _located(self, pieces: Sequence[str], *, gap: int) -> list["Tracked"]:
        """Pieces of this text in their order, `gap` characters apart at least."""
        located = []
        done = 0
        for piece in pieces:
            start = self.find(piece, done)
            located.append(self[start : start + len(piece)])
            done = start + len(piece) + gap
        return located

    def _mapped(self, change: Callable[[str], str]) -> "Tracked":
        """The text after a change that goes letter by letter, and may make two of one (ß)."""
        text = change(plain(self))
        if len(text) == len(self):
            return Tracked(text, self._origins)
        letters = zip(plain(self), self._origins, strict=True)
        origins = "".join(origin * len(change(letter)) for letter, origin in letters)
        return Tracked(text, origins) if len(origins) == len(text) else tainted(text, self)


def plain(text: str) -> str:
    """The same characters without origins."""
    return str.__getitem__(text, slice(None)) if isinstance(text, Tracked) else text


def origins_of(text: str) -> str:
    """The origin of each character, which is the template for those of a plain string."""
    return text._origins if isinstance(text, Tracked) else OWN * len(text)


def own(text: str) -> Tracked:
    """A string of the template, as one whose methods keep the origins of their arguments."""
    return text if isinstance(text, Tracked) else Tracked(text, origins_of(text))


def joined(pieces: Iterable[str]) -> str:
    """The pieces as one text; plain if all of them are."""
    pieces = list(pieces)
    text = "".join(map(plain, pieces))
    if not any(isinstance(piece, Tracked) for piece in pieces):
        return text
    return Tracked(text, "".join(map(origins_of, pieces)))


def _leaves(value: Any) -> Iterable[Tracked]:
    """All tracked strings in a value."""
    if isinstance(value, Tracked):
        yield value
    elif isinstance(value, dict):
        yield from _leaves(list(value.items()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)


def tainted(text: str, source: Any) -> str:
    """`text`, all of it with the origin of the first message that is in `source`: for changes whose letters
    cannot be followed. So it can hold no control piece.
    """
    for leaf in _leaves(source):
        if origin := leaf._origins.strip(OWN)[:1]:
            return Tracked(plain(text), origin * len(text))
    return text


def shadowed(run: Callable[..., str], *values: Any) -> str:
    """`run(*values)`, a function that puts strings somewhere without looking into them: format, join, pad.

    It is run again with one private letter in place of each tracked string's, which shows where they went.
    """
    hidden: list[Tracked] = []

    def hide(value: Any) -> Any:
        if isinstance(value, Tracked):
            hidden.append(value)
            return chr(STAND_IN + len(hidden) - 1) * len(value)
        if isinstance(value, dict):
            return {hide(key): hide(item) for key, item in value.items()}
        return type(value)(map(hide, value)) if type(value) in (list, tuple) else value

    text = plain(run(*_plain(values)))
    try:
        stencil = run(*hide(values))
    except (TypeError, ValueError, LookupError):  # a message that is itself the format
        return tainted(text, values)
    pieces: list[str] = []
    for letter, group in groupby(stencil):
        n = len(list(group))
        k = ord(letter) - STAND_IN
        # the same string twice in a row, or cut at its end by a precision
        pieces.append((hidden[k] * n)[:n] if 0 <= k < len(hidden) else letter * n)
    found = joined(pieces)
    return found if found == text else tainted(text, values)


def _plain(value: Any) -> Any:
    if isinstance(value, Tracked):
        return plain(value)
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def to_json(value: Any, **options: Any) -> str:
    """JSON of a value, in which each letter of a string keeps its origin."""
    text = json.dumps(value, **options)
    mark = "@"
    while mark in text:
        mark += "@"
    hidden: list[Tracked] = []

    def hide(value: Any) -> Any:
        if isinstance(value, Tracked):
            hidden.append(value)
            return f"{mark}{len(hidden) - 1}{mark}"
        if isinstance(value, dict):
            return {hide(key): hide(item) for key, item in value.items()}
        return list(map(hide, value)) if isinstance(value, list | tuple) else value

    def escaped(string: Tracked) -> Tracked:
        # an escape has no influence on those beside it, so each letter can be written alone, once for all
        letters = plain(string)
        forms = {letter: json.dumps(letter, **options)[1:-1] for letter in set(letters)}
        origins = zip(letters, string._origins, strict=True)
        spread = "".join([origin * len(forms[letter]) for letter, origin in origins])
        return Tracked("".join(map(forms.__getitem__, letters)), spread)

    own_text, *rest = re.split(f"{mark}(\\d+){mark}", json.dumps(hide(value), **options))
    pieces = [own_text]
    for k, own_text in zip(rest[::2], rest[1::2], strict=True):
        pieces += [escaped(hidden[int(k)]), own_text]
    found = joined(pieces)
    return found if found == text else tainted(text, value)


def called(method: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """What a method of a plain string returns, with the origins of its arguments."""
    return operator.methodcaller(method.__name__, *args, **kwargs)(own(method.__self__))
