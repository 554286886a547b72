"""Which licence the files of a package are under: what its metadata declares, else the licence texts that
lie beside it.
"""

import csv
import re
from collections.abc import Callable
from pathlib import PurePosixPath

from data_pipeline.readers.languages import PROGRAMMING_LANGUAGES, language_of_name
from data_pipeline.readers.licences import licence_of_text
from data_pipeline.readers.package_declarations import (
    core_metadata,
    declared_by,
    in_order,
    is_declaration,
)

LICENCE_FILE = re.compile(
    r"(?:(?:mit|bsd|apache|isc)[-_.])?(?:li[cs]en[cs]es?|copying|unlicen[cs]e)(?![a-z])",
    re.IGNORECASE,
)
# Holds a licence now and then, and more often names of people alone.
COPYRIGHT_FILE = re.compile(r"copyright(?![a-z])", re.IGNORECASE)
Read = Callable[[str], str]


def is_evidence(path: str) -> bool:
    """Whether the file (path inside the tree) says under which licence its neighbours are."""
    parts = PurePosixPath(path).parts
    if any(part.endswith(".dist-info") for part in parts[:-1]):
        return parts[-1] in ("METADATA", "RECORD") or is_licence_file(parts[-1])
    return is_declaration(parts[-1]) or is_licence_file(parts[-1])


def is_licence_file(name: str) -> bool:
    """LICENSE, COPYING.LESSER, Licence-MIT.md, COPYRIGHT …, but no program of that name."""
    named = LICENCE_FILE.match(name) or COPYRIGHT_FILE.match(name)
    return bool(named) and language_of_name(name) not in PROGRAMMING_LANGUAGES


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
        for name in in_order(names):
            if licence := declared_by(name, self._read(names[name])):
                return licence
        licences = self._of_texts(paths)
        return joined(licences) if licences else None

    def _of_texts(self, paths: list[str]) -> list[str]:
        """The licences of those of the files that are licence texts, "" for one that we do not know."""
        licences = []
        for path in sorted(paths):
            name = PurePosixPath(path).name
            if not is_licence_file(name):
                continue
            licence = licence_of_text(self._read(path))
            # A list of names says nothing; a licence that we do not know says that it is another one.
            if licence or not COPYRIGHT_FILE.match(name):
                licences.append(licence)
        return licences

    def _installed(self, paths: list[str]) -> dict[str, str]:
        """Top-level name → licence, of one installed distribution."""
        names = {PurePosixPath(path).name: path for path in paths}
        licence = core_metadata(self._read(names["METADATA"])) if "METADATA" in names else ""
        licence = licence or joined(self._of_texts(paths))
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
