"""Which licence the files of a package are under: what its metadata declares, else the licence texts that
lie beside it.
"""

import csv
import json
import re
import tomllib
from collections.abc import Callable
from email.parser import HeaderParser
from pathlib import PurePosixPath

from data_pipeline.readers.languages import PROGRAMMING_LANGUAGES, language_of_name
from data_pipeline.readers.licences import expression, licence_of_text

LICENCE_FILE = re.compile(r"(?:li[cs]en[cs]e|copying|unlicen[cs]e)(?![a-z])", re.IGNORECASE)
CLASSIFIER = "License :: OSI Approved :: "
Read = Callable[[str], str]


def is_evidence(path: str) -> bool:
    """Whether the file (path inside the tree) says under which licence its neighbours are."""
    parts = PurePosixPath(path).parts
    if any(part.endswith(".dist-info") for part in parts[:-1]):
        return parts[-1] in ("METADATA", "RECORD") or is_licence_file(parts[-1])
    return parts[-1] in DECLARATIONS or is_licence_file(parts[-1])


def is_licence_file(name: str) -> bool:
    """LICENSE, COPYING.LESSER, Licence-MIT.md …, but no program of that name."""
    return bool(LICENCE_FILE.match(name)) and language_of_name(name) not in PROGRAMMING_LANGUAGES


def home(path: str) -> str:
    """The folder (inside the tree) about which an evidence file speaks: its own, or the one that its
    `*.dist-info` lies in.
    """
    parts = PurePosixPath(path).parts[:-1]
    # `site-packages/NAME.dist-info/METADATA` speaks about what lies in site-packages.
    cut = next((n for n, part in enumerate(parts) if part.endswith(".dist-info")), len(parts))
    return "/".join(parts[:cut])


class PackageLicences:
    """Answers for the files of one tree; reads each folder's evidence when it is first asked for.

    Args:
        evidence: Paths inside the tree for which `is_evidence` holds.
        read: path → text, "" when it cannot be read.
        repositories: Paths of checkouts: what lies above one says nothing about it.
    """

    def __init__(self, evidence: list[str], read: Read, repositories: frozenset[str]):
        self._read, self._repositories = read, repositories
        self._evidence: dict[str, list[str]] = {}
        for path in evidence:
            self._evidence.setdefault(home(path), []).append(path)
        self._folders: dict[str, tuple[str | None, dict[str, str]]] = {}

    def of(self, path: str) -> str:
        """The SPDX expression of the nearest package around `path`, "" when none says."""
        folder, name = path.rpartition("/")[::2]
        # Upwards from the file: the nearest package that says anything decides.
        while True:
            own, installed = self._folder(folder)
            if name in installed:
                return installed[name]
            if own is not None:
                return own
            # What lies above a checkout says nothing about it.
            if not folder or folder in self._repositories:
                return ""
            folder, name = folder.rpartition("/")[::2]

    def _folder(self, folder: str) -> tuple[str | None, dict[str, str]]:
        if folder not in self._folders:
            paths = self._evidence.get(folder, [])
            installed: dict[str, list[str]] = {}
            for path in paths:
                if ".dist-info/" in path:
                    installed.setdefault(path.split(".dist-info/")[0], []).append(path)
            by_name: dict[str, str] = {}
            for files in installed.values():
                by_name |= self._installed(files)
            own = [path for path in paths if ".dist-info/" not in path]
            self._folders[folder] = (self._declared(own), by_name)
        return self._folders[folder]

    def _declared(self, paths: list[str]) -> str | None:
        """None: nothing there speaks of a licence."""
        names = {PurePosixPath(path).name: path for path in paths}
        # What a package declares binds before the texts beside it, which may be of bundled code.
        for name, declaration in DECLARATIONS.items():
            if name in names and (licence := declaration(self._read(names[name]))):
                return licence
        texts = [
            licence_of_text(self._read(path))
            for name, path in sorted(names.items())
            if is_licence_file(name)
        ]
        return joined(texts) if texts else None

    def _installed(self, paths: list[str]) -> dict[str, str]:
        """Top-level name → licence, of one installed distribution."""
        names = {PurePosixPath(path).name: path for path in paths}
        licence = core_metadata(self._read(names["METADATA"])) if "METADATA" in names else ""
        licence = licence or joined(
            [
                licence_of_text(self._read(path))
                for path in paths
                if is_licence_file(PurePosixPath(path).name)
            ]
        )
        # A wheel's RECORD lists what it installed: those top-level names are under its licence.
        files = csv.reader(self._read(names["RECORD"]).splitlines()) if "RECORD" in names else ()
        tops = {row[0].split("/")[0] for row in files if row}
        return {
            top: licence for top in tops if top not in ("..", "") and not top.endswith(".dist-info")
        }


def joined(licences: list[str]) -> str:
    """Several licence texts side by side bind together; a GPL beside an LGPL is only what that one is
    written on.
    """
    identifiers = sorted({part for licence in licences for part in licence.split(" AND ") if part})
    # An LGPL package ships the GPL's text as well, because the LGPL refers to it.
    if any(part.startswith("LGPL-") for part in identifiers):
        identifiers = [part for part in identifiers if not part.startswith("GPL-")]
    return " AND ".join(identifiers)


def core_metadata(text: str) -> str:
    """Of a wheel's METADATA: License-Expression (PEP 639), else License, else the one classifier that is
    clear.
    """
    headers = HeaderParser().parsestr(text)
    for name in ("License-Expression", "License"):
        if licence := expression(str(headers.get(name, ""))):
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


def package_json(text: str) -> str:
    """`license`, or the older `{"type": …}`."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    declared = data.get("license") if isinstance(data, dict) else None
    return _expression(declared.get("type") if isinstance(declared, dict) else declared)


def composer_json(text: str) -> str:
    """`license`: an expression, or a list of those that one may choose from."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    declared = data.get("license") if isinstance(data, dict) else None
    if isinstance(declared, list):
        return _expression(" OR ".join(map(str, declared)))
    return _expression(declared)


DECLARATIONS: dict[str, Callable[[str], str]] = {
    "pyproject.toml": pyproject,
    "Cargo.toml": cargo,
    "package.json": package_json,
    "composer.json": composer_json,
}


def _expression(declared: object) -> str:
    return expression(declared) if isinstance(declared, str) else ""


def _table(data: dict, name: str) -> dict:
    value = data.get(name)
    return value if isinstance(value, dict) else {}


def _toml(text: str) -> dict:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return {}
