"""Files of a folder that its reader leaves out, counted by their suffix: a folder of notes of which half are
.md must not become half a corpus without a word.
"""

import posixpath
import re
from collections.abc import Mapping

from data_pipeline.documents.drops import Drops
from data_pipeline.readers.folder import File

# Suffix → [how many files have it, the first of them with what would read it]; a list, as JSON gives it back
# from the `Part` in which it travels.
LeftOut = dict[str, list[int | str]]

# Numbers and long tails of names are no suffixes, and would each be a reason of its own.
SUFFIX = re.compile(r"[a-z][a-z0-9]{0,11}")
OTHER = "other"
MAX_SUFFIXES = 12  # counted by name: of files named README.this, notes.that, each is its own


def by_suffix(files: list[File], remedies: Mapping[str, str]) -> LeftOut:
    """The files by suffix without its dot; `remedies` says of some suffixes how they are read."""
    named: dict[str, list[File]] = {}
    for file in files:
        suffix = _suffix_of(file)
        if not SUFFIX.fullmatch(suffix):
            suffix = OTHER if suffix else "none"
        named.setdefault(suffix, []).append(file)
    # The most frequent ones alone; of equally frequent ones the first by name, whatever was found first.
    suffixes = named.keys() - {OTHER}
    ranked = sorted(suffixes, key=lambda suffix: (-len(named[suffix]), suffix))
    for suffix in ranked[MAX_SUFFIXES:]:
        named[OTHER] = named.get(OTHER, []) + named.pop(suffix)
    left_out: LeftOut = {}
    for suffix, of_suffix in sorted(named.items()):
        first = of_suffix[0]
        remedy = remedies.get(_suffix_of(first))
        left_out[suffix] = [len(of_suffix), f"{first.name}: {remedy}" if remedy else first.name]
    return left_out


def _suffix_of(file: File) -> str:
    return posixpath.splitext(file.name)[1].lstrip(".").lower()


def count(left_out: LeftOut, source: str, drops: Drops) -> None:
    """Add them to what was dropped."""
    for suffix, (n_files, example) in left_out.items():
        drops.add(source, f"suffix_not_read_{suffix}", example, n=n_files)
