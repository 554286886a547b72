"""The files of a tree as parts: what one process reads, and what it must know of the rest of the tree."""

import json
from pathlib import Path
from typing import NamedTuple

from data_pipeline.documents.drops import MAX_EXAMPLES, Drops
from data_pipeline.readers.code_files import Found, batches, common_depth
from data_pipeline.readers.package_licences import home
from data_pipeline.readers.part import Part
from data_pipeline.readers.source_text import as_unicode
from data_pipeline.readers.storage import address, local_path


class Tree(NamedTuple):
    """One part, opened again; paths are inside the tree.

    Attributes:
        root: The tree.
        depth: How many folders all its files share.
        revisions: Its checkouts: path → revision, "" where that is not known.
        evidence: Files that say under which licence others are.
        files: Files to read.
    """

    root: Path
    depth: int
    revisions: dict[str, str]
    evidence: list[str]
    files: list[str]

    def names(self, path: str) -> tuple[str, str]:
        """(path as shown, group): `checkout@revision/path` in a checkout, whose group it is; else by the
        first part that tells apart.
        """
        checkout = path.rpartition("/")[0]
        # The nearest checkout above the file, because checkouts may be inside of others.
        while checkout and checkout not in self.revisions:
            checkout = checkout.rpartition("/")[0]
        group = checkout or Path(path.split("/")[self.depth]).stem
        if checkout in self.revisions:
            revision = self.revisions[checkout]
            at_revision = f"@{revision}" if revision else ""
            inside = path[len(checkout) :].lstrip("/")
            path = f"{checkout or self.root.name}{at_revision}/{inside}"
        return as_unicode(path), as_unicode(group)


def parts_of(
    root: Path, files: list[Found], revisions: dict[str, str], *, part_bytes: int
) -> list[Part]:
    """Top-level folders in batches; every file of `found`, read or left out, is in one of them."""
    depth = common_depth([file.path for file in files if not file.drop])
    evidence = [file.path for file in files if file.is_evidence]
    entries = [file for file in files if file.drop != "evidence"]
    return [
        _part(f"{n:05d}", batch, root, depth, evidence, revisions)
        for n, batch in enumerate(batches(entries, depth=depth, most_bytes=part_bytes))
    ]


def _part(
    name: str,
    batch: list[Found],
    root: Path,
    depth: int,
    evidence: list[str],
    revisions: dict[str, str],
) -> Part:
    # "" is the root, which is above every file.
    folders = {""}
    for file in batch:
        above = file.path.rpartition("/")[0]
        while above not in folders:
            folders.add(above)
            above = above.rpartition("/")[0]
    # A part brings the licences of the folders above its files along, and no others.
    evidence = [path for path in evidence if home(path) in folders]
    left_out: dict[str, tuple[int, list[str]]] = {}
    for file in batch:
        if file.drop:
            count, examples = left_out.get(file.drop, (0, []))
            left_out[file.drop] = count + 1, [*examples, as_unicode(file.path)][:MAX_EXAMPLES]
    detail = {
        "root": str(root),
        "depth": depth,
        "n_evidence": len(evidence),
        "revisions": {path: revision for path, revision in revisions.items() if path in folders},
        "left_out": left_out,
    }
    files = evidence + [file.path for file in batch if not file.drop]
    return Part(name, tuple(address(str(root / path)) for path in files), json.dumps(detail))


def opened_part(part: Part, source: str, drops: Drops) -> Tree:
    """What `parts_of` wrote; what was left out by its name alone is counted now."""
    detail = json.loads(part.detail)
    for reason, (n, examples) in detail["left_out"].items():
        drops.add(source, reason, n=n)
        for example in examples:
            drops.add(source, reason, example, n=0)
    root, n_evidence = Path(detail["root"]), detail["n_evidence"]
    inside = [Path(local_path(file)).relative_to(root).as_posix() for file in part.inputs]
    return Tree(
        root, detail["depth"], detail["revisions"], inside[:n_evidence], inside[n_evidence:]
    )
