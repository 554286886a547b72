"""One immutable folder of token shards: its manifest, which says what was written, and its index, a row a
document.
"""

import hashlib
import json
import tokenize
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.files import damage_of, seal_beside, sha256
from data_pipeline.shards.npy import read_array

# NumPy parses the header of a .npy file as Python: a damaged one may raise what a parser does
UNREADABLE = (ValueError, EOFError, FileNotFoundError, SyntaxError, tokenize.TokenError)
MANIFEST, INDEX, SEGMENTS = "manifest.json", "index.npy", "segments"
AGAIN = "delete the folder and prepare the data again"
MEND = f"{AGAIN}, or leave damaged records out by data.skip_bad_records=true"
AMOUNTS = ("documents", "tokens", "bytes")
MANIFEST_FIELDS = (*AMOUNTS, "content_hash", "after", "shards", "index_sha256", "lineage")
SHARD_FIELDS = ("file", "records", "size", "sha256")


def index_type(n_sequences: int) -> np.dtype:
    """A row of the index; 16 bytes and 4 a sequence."""
    # little-endian whatever the machine, so that shards can be copied anywhere
    return np.dtype([("id", "<u8"), ("digest", "<u8"), ("lengths", "<i4", (n_sequences,))])


class Segment(NamedTuple):
    """One immutable folder of shards.

    Attributes:
        folder: Where it lies.
        manifest: What was written there, and from what.
        index: A row a document, mapped from the disk: `id` (see `id_key`), `digest` (xxh3-64 of the record)
        and `lengths` [sequences].
        first: Number of its first document in the source.
    """

    folder: Path
    manifest: dict[str, Any]
    index: np.ndarray
    first: int

    def check_index(self) -> None:
        """Read manifest and index whole, and compare them with their digests.

        Raises:
            ValueError: one is not what was written.
        """
        seal = seal_beside(self.folder / MANIFEST)
        # Shards of an earlier version have none.
        if seal.is_file() and (why := damage_of(seal)):
            raise ValueError(f"{self.folder} is damaged: {why}; {AGAIN}")
        if sha256(self.folder / INDEX) != self.manifest["index_sha256"]:
            raise ValueError(
                f"{self.folder / INDEX} is damaged (its SHA-256 is not the manifest's); {AGAIN}"
            )


def chained(before: str, content_hash: str) -> str:
    """The content hash of a source with one more segment."""
    # Chained, so that the hash changes with any segment and with their order.
    return hashlib.sha256(f"{before} {content_hash}".encode()).hexdigest()


def segment_folder(folder: Path, number: int) -> Path:
    """Where segment `number` of a source lies; segment 0 is the folder itself."""
    # Five digits: names then sort as the numbers do.
    return folder / SEGMENTS / f"{number:05}" if number else folder


def n_segments(folder: Path) -> int:
    """How many finished segments a source has; one that is still being written has no manifest.

    Raises:
        ValueError: one is missing that others stand behind.
    """
    manifests = folder.glob(f"{SEGMENTS}/[0-9]*/{MANIFEST}")

    # segment 0 is the folder itself
    numbers = {0} | {int(path.parent.name) for path in manifests}
    missing = set(range(max(numbers))) - numbers
    if missing:
        raise ValueError(
            f"{segment_folder(folder, min(missing))} is missing, and segments behind it are there; "
            "restore it or delete them"
        )
    return len(numbers)


def segment_at(folder: Path, *, first: int, whole: bool) -> Segment:
    """Open a folder; with `whole`, every shard file must be there with its size.

    Raises:
        ValueError: something is missing or damaged; the file is named.
    """
    # the manifest is written last: without it the folder is not finished
    manifest: dict[str, Any] = _load(folder / MANIFEST, _read_manifest)
    # mapped: opening a source of millions of documents takes no memory
    index: np.ndarray = _load(folder / INDEX, read_array)
    if index.dtype.names is None:
        raise ValueError(f"{folder / INDEX} is of an earlier version; {AGAIN}")

    # documents have one sequence, pairs two
    if index.dtype not in (index_type(1), index_type(2)):
        raise ValueError(f"{folder / INDEX} is damaged; {AGAIN}")
    if (
        not len(index)
        == manifest["documents"]
        == sum(shard["records"] for shard in manifest["shards"])
    ):
        raise ValueError(
            f"{folder / INDEX} has {len(index)} rows, its manifest says {manifest['documents']}; {AGAIN}"
        )
    # A reader that leaves bad records out also works with missing files.
    if whole:
        _check_sizes(folder, manifest["shards"], index["id"])
    return Segment(folder, manifest, index, first)


def _read_manifest(path: Path) -> dict[str, Any]:
    # a manifest of an earlier version lacks some of the fields
    manifest = json.loads(path.read_bytes())
    missing = [name for name in MANIFEST_FIELDS if name not in manifest]
    for shard in manifest.get("shards", ()):
        missing += [name for name in SHARD_FIELDS if name not in shard]
    if missing:
        raise ValueError(f"it does not say {missing[0]}")
    return manifest


def _check_sizes(folder: Path, shards: Iterable[Mapping[str, Any]], ids: np.ndarray) -> None:
    """Check that every file is there and has its size: quick, and finds what a copy broken off leaves.

    Raises:
        ValueError: a file is not; it says which documents are lost.
    """
    first = 0
    for shard in shards:
        path = folder / shard["file"]
        documents = ids[first : first + shard["records"]]
        # "no" reads well in the sentence below and equals no size.
        size = path.stat().st_size if path.exists() else "no"
        if size != shard["size"]:
            lost = ""
            if len(documents):
                lost = f" ({len(documents)} records, documents {documents[0]:016x} to {documents[-1]:016x})"
            raise ValueError(
                f"{path} has {size} bytes, its manifest says {shard['size']}{lost}; {MEND}"
            )
        first += shard["records"]


def _load(path: Path, read: Any) -> Any:
    try:
        return read(path)
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read ({error}); {AGAIN}") from error
