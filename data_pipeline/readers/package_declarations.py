"""What packages declare as their licence, in the files that their managers read."""

import json
import re
import tomllib
from collections.abc import Callable, Iterable
from email.parser import HeaderParser

from data_pipeline.readers.licences import OTHER, expression

CLASSIFIER = "License :: OSI Approved :: "
# No public licence, or one that binds further under a name that SPDX has not: what lies beside it, or
# above, is then of something else.
RESERVED = re.compile(
    r"\b(?:unlicensed|proprietary|commercial|commons.?clause|closed|reserved|none|private|confidential"
    r"|non.?commercial|source.available|a?l?gpl\w*|general public|mozilla|mpl\w*|eclipse|epl\w*|cddl\w*"
    r"|eupl\w*|cecill\w*"
    r"|creative commons|cc.by\w*|sspl\w*|busl\w*|business source|elastic|artistic|osl\w*)\b",
    re.IGNORECASE,
)
MAX_NAME_CHARS = 100  # of a name; what is longer is a licence's text
# A line of a manifest that is code or has a form of its own: `s.licenses = ["MIT"]`, `license: BSD3`.
LINE = re.compile(
    r"^[ \t]*(?:\w+\.)?\"?licen[cs]es?\"?[ \t]*(?:=>|[:=])[ \t]*(?P<value>[^\n]+)",
    re.MULTILINE | re.IGNORECASE,
)
LIST = re.compile(r"\[(?P<list>[^\]\n]*)\]")
TYPE = re.compile(r"(?::type\s*=>|\btype:)\s*['\"]([^'\"]+)")  # CocoaPods' older form
POM = re.compile(r"<license>\s*(?:<[^>]*>[^<]*</[^>]*>\s*)*?<name>\s*([^<]+?)\s*</name>", re.DOTALL)


def core_metadata(text: str) -> str:
    """Of a wheel's METADATA: License-Expression (PEP 639), else License, else the one classifier that is
    clear.
    """
    headers = HeaderParser().parsestr(text)
    for name in ("License-Expression", "License"):
        if licence := _expression(str(headers.get(name, ""))):
            return licence
    classifiers = [
        str(value).removeprefix(CLASSIFIER)
        for value in headers.get_all("Classifier", [])
        if str(value).startswith(CLASSIFIER)
    ]
    # Two classifiers may mean AND or OR: nothing is concluded.
    return expression(classifiers[0]) if len(classifiers) == 1 else ""


def pyproject(text: str) -> str:
    """`project.license` as PEP 639 and PEP 621 write it, or Poetry's."""
    data = _toml(text)
    project, poetry = _table(data, "project"), _table(_table(data, "tool"), "poetry")
    # PEP 639 has a string, PEP 621 a table with `text`; Poetry wrote a string before either.
    declared = project.get("license", poetry.get("license"))
    return _expression(declared.get("text") if isinstance(declared, dict) else declared)


def cargo(text: str) -> str:
    """`package.license`; its old form writes OR as a slash."""
    declared = _table(_toml(text), "package").get("license")
    return _expression(declared.replace("/", " OR ") if isinstance(declared, str) else declared)


def json_manifest(text: str) -> str:
    """`license` of npm, Composer, Bower and Elm: an expression, an object with `type`, or a list of those
    that one may choose from.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(data, dict):
        return ""
    declared = data.get("license", data.get("licenses"))
    if not isinstance(declared, list):
        return _expression(_type(declared))
    each = [_expression(_type(item)) for item in declared]
    # One that is not understood leaves the others to choose from.
    known = [f"({licence})" if " " in licence else licence for licence in each if licence]
    return " OR ".join(dict.fromkeys(known))


def lines(text: str) -> str:
    """The line that names it, of a gemspec, podspec, Cabal file, R's DESCRIPTION, Nim's or Mix's manifest."""
    found = LINE.search(text)
    if found is None:
        return ""
    value = found["value"].split("#")[0].strip()
    if chosen := LIST.search(value):
        value = chosen["list"]
        names = re.findall(r"['\"]([^'\"]+)", value)
        # A list binds with all that stand in it, for its managers do not say whether one may choose.
        each = [_expression(name) for name in names]
        return " AND ".join(each) if each and all(each) else ""
    if typed := TYPE.search(value):
        return _expression(typed[1])
    quoted = re.match(r"['\"]([^'\"]+)", value)
    # R writes `MIT + file LICENSE`, which gives the years and names.
    return _expression(
        re.sub(r" \+ file LICEN[CS]E", "", quoted[1] if quoted else value.rstrip(",;"))
    )


def setup_cfg(text: str) -> str:
    """`license` of setup.cfg and, as it is in the same form, the argument of setup.py."""
    found = re.search(
        r"^[ \t]*license[ \t]*=[ \t]*['\"]?([^'\"\n,()]+)['\"]?,?[ \t]*$", text, re.MULTILINE
    )
    return _expression(found[1]) if found else ""


def pom(text: str) -> str:
    """The one licence of a Maven project; several may mean AND or OR."""
    names = POM.findall(text)
    return _expression(names[0]) if len(names) == 1 else ""


# In the order in which they are asked; a suffix begins with a dot.
DECLARATIONS: dict[str, Callable[[str], str]] = {
    "pyproject.toml": pyproject,
    "PKG-INFO": core_metadata,
    "setup.cfg": setup_cfg,
    "setup.py": setup_cfg,
    "Cargo.toml": cargo,
    "package.json": json_manifest,
    "composer.json": json_manifest,
    "bower.json": json_manifest,
    "elm.json": json_manifest,
    "dub.json": json_manifest,
    "DESCRIPTION": lines,
    "mix.exs": lines,
    "pom.xml": pom,
    ".gemspec": lines,
    ".podspec": lines,
    ".cabal": lines,
    ".nimble": lines,
    "opam": lines,
    ".opam": lines,
    ".rockspec": lines,
}


def is_declaration(name: str) -> bool:
    """Whether a file of that name is a package's manifest."""
    return _key(name) in DECLARATIONS


def in_order(names: Iterable[str]) -> list[str]:
    """Those of the names that are manifests, the one that is asked first first."""
    order = list(DECLARATIONS)
    return sorted(filter(is_declaration, names), key=lambda name: (order.index(_key(name)), name))


def declared_by(name: str, text: str) -> str:
    """The licence that a manifest of that name declares, as an SPDX expression; "" for none we know."""
    return DECLARATIONS[_key(name)](text)


def is_reserved(declared: str) -> bool:
    """Whether a declared name that we do not know is one of a licence that is not permissive."""
    return len(declared) < MAX_NAME_CHARS and RESERVED.search(declared) is not None


def _key(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return name if name in DECLARATIONS or not stem else dot + suffix


def _type(declared: object) -> object:
    return declared.get("type", declared.get("name")) if isinstance(declared, dict) else declared


def _expression(declared: object) -> str:
    if not isinstance(declared, str):
        return ""
    licence = expression(declared)
    return OTHER if not licence and is_reserved(declared) else licence


def _table(data: dict, name: str) -> dict:
    value = data.get(name)
    return value if isinstance(value, dict) else {}


def _toml(text: str) -> dict:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return {}
