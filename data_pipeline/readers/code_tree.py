"""Source files of a folder (a checkout, a folder of checkouts, installed packages), or of this Python's
standard library.
"""

import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, field_validator

from data_pipeline.documents.document import Document, content_id
from data_pipeline.documents.drops import Drops
from data_pipeline.readers.code_files import Found, Selection, walk
from data_pipeline.readers.code_kind import KINDS, Kind
from data_pipeline.readers.code_parts import opened_part, parts_of
from data_pipeline.readers.languages import PROGRAMMING_LANGUAGES, check_languages
from data_pipeline.readers.licence_heads import is_closed, licence_of_head
from data_pipeline.readers.licences import OTHER, allowed
from data_pipeline.readers.package_licences import PackageLicences
from data_pipeline.readers.part import Part
from data_pipeline.readers.source_text import evidence_text, source_text
from data_pipeline.readers.storage import local_path

# tests, bundled third parties, another source's text (topics), this machine's build settings, tables written
# by gencodec.py
STDLIB_EXCLUDE = tuple(
    """*/test/* */tests/* */idle_test/* */ensurepip/_bundled/* */lib-dynload/* */config-*/* */_sysconfigdata*
    */pydoc_data/topics.py */encodings/cp* */encodings/iso8859* */encodings/mac_* */encodings/koi8*
    */encodings/hp_roman8.py */encodings/kz1048.py */encodings/palmos.py */encodings/ptcp154.py
    */encodings/tis_620.py */turtledemo/* */site-packages/* */dist-packages/* *.pyw""".split()
)


class CodeTree(BaseModel, frozen=True, extra="forbid", strict=True):
    """The source files under a folder; hidden files, and links to folders, are not followed.

    Attributes:
        folder: The tree: one package or checkout, or a folder of many.
        languages: Languages to read, by the names of `languages.py`; None = all programming languages, no
        markup and no data.
        licences: SPDX identifiers (such as `licences.PERMISSIVE`) that a file's licence must be met with;
        None = any licence and none.
        leave_out: Kinds of files that nobody wrote there.
        exclude: Patterns (`*` also matches `/`) of paths to leave out, matched against "/" + the path
        inside the tree.
        part_bytes: About how much one process reads.
    """

    VERSION: ClassVar[int] = 3

    folder: str
    languages: tuple[str, ...] | None = None
    licences: tuple[str, ...] | None = None
    leave_out: tuple[Kind, ...] = KINDS
    exclude: tuple[str, ...] = ()
    part_bytes: int = 64 << 20

    @field_validator("languages")
    @classmethod
    def _known(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        check_languages(names or ())
        return names

    def parts(self, source: str, *, work: Path) -> list[Part]:
        """Top-level folders in batches of about `part_bytes`.

        Raises:
            FileNotFoundError: No such folder.
            ValueError: It holds no source file.
        """
        field, local = f"sources.{source}.folder", local_path(self.folder)
        if local is None:
            raise ValueError(
                f"{field}={self.folder!r} is a URL; copy the tree to this machine and name the copy"
            )
        root = Path(local)
        if not root.exists():
            raise FileNotFoundError(
                f"{field}={self.folder!r} does not exist; name an existing file or folder"
            )
        revisions: dict[str, str] = {}
        # A single file is a tree of one: its folder is the root, and no walk is needed.
        if root.is_file():
            root, files = root.parent, [Found(root.name, root.stat().st_size)]
        else:
            files = list(
                walk(root, Selection(self._languages(), self.leave_out, self.exclude), revisions)
            )
        if all(file.drop for file in files):
            reasons = {file.drop for file in files if file.drop != "evidence"}
            left_out = ", ".join(sorted(reasons)) or "nothing"
            raise ValueError(
                f"{field}={self.folder!r} holds no source file (languages={self.languages}; "
                f"left out: {left_out}); name a folder that does"
            )
        return parts_of(root, files, revisions, part_bytes=self.part_bytes)

    def read(self, part: Part, source: str, *, work: Path, drops: Drops) -> Iterator[Document]:
        """One document a file; path is inside the tree, `checkout@revision/path` for a checkout.

        Group: the checkout below the folder, else the path's first part that tells files apart.
        """
        tree = opened_part(part, source, drops)
        packages = PackageLicences(
            tree.evidence,
            lambda path: evidence_text(tree.root / path, work),
            frozenset(tree.revisions),
        )
        chosen = {"languages": self._languages(), "leave_out": self.leave_out}
        for path in tree.files:
            shown, group = tree.names(path)
            content = source_text(
                tree.root / path, shown, **chosen, work=work, source=source, drops=drops
            )
            if content is None:
                continue
            # A file's own header binds before what its package says.
            licence = licence_of_head(content.text, content.language)
            if not licence:
                licence = OTHER if is_closed(content.text, content.language) else packages.of(path)
            if self.licences is not None and not (licence and allowed(licence, self.licences)):
                drops.add(
                    source,
                    f"licence_{licence}".replace(" ", "_") if licence else "no_licence",
                    shown,
                )
                continue
            yield Document(
                content_id(content.text),
                content.text,
                source,
                shown,
                group,
                content.language,
                licence,
            )

    def _languages(self) -> frozenset[str]:
        return PROGRAMMING_LANGUAGES if self.languages is None else frozenset(self.languages)


class StdlibCode(BaseModel, frozen=True, extra="forbid", strict=True):
    """The standard library's own Python files, without its tests; `exclude` as in `CodeTree`."""

    VERSION: ClassVar[int] = 3

    exclude: tuple[str, ...] = STDLIB_EXCLUDE

    def fingerprint(self) -> str:
        """The version of Python, whose library is read."""
        return platform.python_version()

    def parts(self, source: str, *, work: Path) -> list[Part]:
        """One part for the whole library."""
        return self._tree().parts(source, work=work)

    def read(self, part: Part, source: str, *, work: Path, drops: Drops) -> Iterator[Document]:
        """One document a file; group is the top-level module, as in `StdlibDocs`."""
        for document in self._tree().read(part, source, work=work, drops=drops):
            # Debian ships Python's licence elsewhere, so nothing beside the files may name it.
            yield document if document.licence else document._replace(licence="Python-2.0")

    def _tree(self) -> CodeTree:
        # `token.py` and the like are written by programs, but belong to what a standard library is
        return CodeTree(
            folder=sysconfig.get_paths()["stdlib"],
            languages=("python",),
            leave_out=(),
            exclude=self.exclude,
        )
