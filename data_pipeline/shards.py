"""Token shards: folders of ArrayRecord files with an index, checksums and a manifest, appended to by further such folders.

A source is a list of immutable segments: `folder` itself, then `folder/segments/00001`, …; each manifest names what it was put behind.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from itertools import batched, chain, islice
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import xxhash
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from data_pipeline.files import new_folder, sha256, write_json, writing
from data_pipeline.streaming.npy import new_array, read_array
from data_pipeline.streaming.record import Record, id_key, pack, unpack

MANIFEST, INDEX, SEGMENTS = "manifest.json", "index.npy", "segments"
AGAIN = "delete the folder and prepare the data again"
AMOUNTS = ("documents", "tokens", "bytes")
CHUNK = 4096  # records whose index rows are held at a time


def write_shards(
    folder: Path, records: Iterable[Record], *, source: str, n_bytes: int, shard_records: int, lineage: dict[str, Any], after: str = ""
) -> None:
    """Write `records` in their order, `shard_records` a file; `folder` appears when everything is on the disk.

    `n_bytes` is the size of the text in UTF-8; `lineage` says what the records were made from. Equal records give equal files.

    Raises:
        ValueError: records differ in their number of sequences, or a sequence is malformed. OutputError: the disk is full or read-only.
    """
    with new_folder(folder) as partial:
        remaining, shards = iter(records), []
        for first in remaining:
            some = chain([first], islice(remaining, shard_records - 1))
            shards.append(write_shard(partial / f"{len(shards):05}.arrayrecord", some))
        finish_shards(partial, shards, source=source, n_bytes=n_bytes, lineage=lineage, after=after)


def append_shards(folder: Path, records: Iterable[Record], **described: Any) -> Path:
    """Put one more segment behind a finished source, which is not touched; arguments as those of `write_shards`. Returns its folder."""
    segment, after = next_segment(folder)
    write_shards(segment, records, after=after, **described)
    return segment


def next_segment(folder: Path) -> tuple[Path, str]:
    """The folder of the segment that may be written next to a source, and the content hash that its `finish_shards` takes as `after`."""
    source = Shards(folder)
    return segment_folder(source.folder, len(source.segments)), source.manifest["content_hash"]


def write_shard(path: Path, records: Iterable[Record]) -> dict[str, Any]:
    """Write one shard file, whole or not at all, with its part of the index beside it; returns what the manifest will say of it.

    Any number of processes may write files of a folder; one then calls `finish_shards` with what they all returned.

    Raises:
        ValueError: records differ in their number of sequences, or a sequence is malformed. OutputError: the disk is full or read-only.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        amounts = _write_records(partial, path, records)
        with writing(path):
            partial.replace(path)  # after its index: a shard file that is there is complete
    finally:
        partial.unlink(missing_ok=True)
    return {"file": path.name, "size": path.stat().st_size, "sha256": sha256(path), **amounts}


def _write_records(partial: Path, path: Path, records: Iterable[Record]) -> dict[str, int]:
    """Write `partial`, which will be `path`, and its part of the index."""
    chunks = batched(records, CHUNK)
    first = next(chunks, ())
    n_sequences = len(first[0].sequences) if first else 1
    n_records = n_tokens = 0
    with new_array(path.with_suffix(".npy"), index_type(n_sequences)) as append:
        with writing(path):
            writer = ArrayRecordWriter(str(partial), "group_size:1")
        for chunk in chain([first], chunks):
            rows = np.zeros(len(chunk), index_type(n_sequences))
            for i, record in enumerate(chunk):
                rows[i] = _write_record(writer, path, record, n_sequences)
            append(rows)
            n_records, n_tokens = n_records + len(rows), n_tokens + int(rows["lengths"].sum(dtype=np.int64))
        with writing(path):
            writer.close()
    return {"records": n_records, "tokens": n_tokens, "sequences": n_sequences}


def _write_record(writer: ArrayRecordWriter, path: Path, record: Record, n_sequences: int) -> tuple[int, int, list[int]]:
    """Write it; its row of the index."""
    if len(record.sequences) != n_sequences:
        raise ValueError(f"{path.parent}: {_differ(len(record.sequences), n_sequences)}")
    data = pack(record)
    with writing(path):
        writer.write(data)
    return id_key(record.id), xxhash.xxh3_64_intdigest(data), [len(sequence.tokens) for sequence in record.sequences]


def finish_shards(
    folder: Path, shards: Iterable[Mapping[str, Any]], *, source: str, n_bytes: int, lineage: dict[str, Any], after: str = ""
) -> None:
    """Make shard files, in this order, a folder that `Shards` opens: the index and, at last, the manifest.

    `shards` is what `write_shard` returned for each; calling it again after a kill does no harm.

    Raises:
        ValueError: files differ in their number of sequences. OutputError: the disk is full or read-only.
    """
    shards = list(shards)
    widths = sorted({shard["sequences"] for shard in shards if shard["records"]})
    if len(widths) > 1:
        raise ValueError(f"{folder}: {_differ(*widths)}")
    content, parts = hashlib.sha256(), [folder / Path(shard["file"]).with_suffix(".npy") for shard in shards if shard["records"]]
    with new_array(folder / INDEX, index_type(widths[0] if widths else 1)) as append:
        for part in parts:
            append(rows := read_array(part))
            content.update(np.ascontiguousarray(rows["digest"]))
    manifest = {
        "source": source,
        "documents": sum(shard["records"] for shard in shards),
        "tokens": sum(shard["tokens"] for shard in shards),
        "bytes": n_bytes,
        "content_hash": content.hexdigest(),
        "after": after,
        "shards": [{name: shard[name] for name in ("file", "records", "size", "sha256")} for shard in shards],
        "index_sha256": sha256(folder / INDEX),
        "tools": {name: version(name) for name in ("array_record", "msgpack", "sentencepiece")},
        "lineage": lineage,
    }
    write_json(folder / MANIFEST, manifest)
    for shard in shards:
        (folder / shard["file"]).with_suffix(".npy").unlink(missing_ok=True)


def index_type(n_sequences: int) -> np.dtype:
    """A row of the index; 16 bytes and 4 a sequence."""
    return np.dtype([("id", "<u8"), ("digest", "<u8"), ("lengths", "<i4", (n_sequences,))])


def _differ(one: int, other: int) -> str:
    return f"records differ in their number of sequences ({one} and {other}); write documents and pairs to folders of their own"


class Segment(NamedTuple):
    """One immutable folder of shards.

    Attributes:
        folder: Where it lies.
        manifest: What was written there, and from what.
        index: A row a document, mapped from the disk: `id` (see `id_key`), `digest` (xxh3-64 of the record) and `lengths` [sequences].
        first: Number of its first document in the source.
    """

    folder: Path
    manifest: dict[str, Any]
    index: np.ndarray
    first: int


class Shards:
    """Random access to the records of a source; cheap to open, to pickle and to share among threads (files are opened at first use).

    Every record read is compared with its digest. `manifest` has the amounts and the content hash of all segments together.

    Raises:
        FileNotFoundError: the folder or its manifest is missing. ValueError: a file is not as the manifest says, or a segment was put
            behind something else than what lies before it.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        if not (self.folder / MANIFEST).is_file():
            raise FileNotFoundError(f"{self.folder} holds no token shards ({MANIFEST} is missing); prepare the data first")
        self.segments = [_segment(self.folder, first=0)]
        content = self.segments[0].manifest["content_hash"]
        for number in range(1, _n_segments(self.folder)):
            following = segment_folder(self.folder, number)
            segment = _segment(following, first=self.segments[-1].first + len(self.segments[-1].index))
            if segment.manifest["after"] != content:
                raise ValueError(f"{self.folder} is not what {following} was appended to; restore it, or delete that and append again")
            content = chained(content, segment.manifest["content_hash"])
            self.segments.append(segment)
        amounts = {name: sum(segment.manifest[name] for segment in self.segments) for name in AMOUNTS}
        self.manifest: dict[str, Any] = {**self.segments[0].manifest, **amounts, "content_hash": content}
        files = [(number, shard) for number, segment in enumerate(self.segments) for shard in segment.manifest["shards"]]
        self._paths = [self.segments[number].folder / shard["file"] for number, shard in files]
        self._segment_of = np.array([number for number, _ in files], np.int64)
        self._ends = np.cumsum([shard["records"] for _, shard in files], dtype=np.int64)
        self._forget_readers()

    def _forget_readers(self) -> None:
        self._readers: dict[int, ArrayRecordReader] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return Shards, (self.folder,)

    @property
    def lengths(self) -> np.ndarray:
        """int32 [documents, sequences], from the index: no record is read for it."""
        return np.concatenate([segment.index["lengths"] for segment in self.segments])

    def verify(self) -> None:
        """Read every file and compare its SHA-256 with the manifest's.

        Raises:
            ValueError: a file was changed or damaged; it is named, and the record and its document where only one is.
        """
        for segment in self.segments:
            expected = {INDEX: segment.manifest["index_sha256"], **{shard["file"]: shard["sha256"] for shard in segment.manifest["shards"]}}
            for file, digest in expected.items():
                if sha256(segment.folder / file) != digest:
                    self._find_damage(segment.folder / file)
                    raise ValueError(f"{segment.folder / file} is damaged (its SHA-256 is not the manifest's); {AGAIN}")

    def _find_damage(self, path: Path) -> None:
        """Read the records of a file one by one, which raises at the first one that is not as it was written."""
        if path in self._paths:
            number = self._paths.index(path)
            for i in range(self._first(number), int(self._ends[number])):
                self.__getitems__([i])

    def find(self, document_id: str) -> list[int]:
        """The numbers of the documents with an id."""
        key = np.uint64(id_key(document_id))
        found = [segment.first + i for segment in self.segments for i in np.flatnonzero(segment.index["id"] == key).tolist()]
        return [i for i in found if self[i].id == document_id]

    def __len__(self) -> int:
        return self.segments[-1].first + len(self.segments[-1].index)

    def __getitem__(self, i: SupportsIndex) -> Record:
        return self.__getitems__([i])[0]

    def __getitems__(self, indices: Iterable[SupportsIndex]) -> list[Record]:
        """Many records at once, in the order asked for: one call a shard, ten times faster than one a record."""
        wanted = np.array([int(i) for i in indices], np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"record {wanted.max() if wanted.min() >= 0 else wanted.min()} of {self.folder}, which has {len(self)}")
        file_of = np.searchsorted(self._ends, wanted, side="right")
        records: list[Any] = [None] * len(wanted)
        for number in np.unique(file_of).tolist():
            (places,) = np.nonzero(file_of == number)
            for place, record in zip(places.tolist(), self._checked(number, wanted[places]), strict=True):
                records[place] = record
        return records

    def _first(self, number: int) -> int:
        return int(self._ends[number - 1]) if number else 0

    def _checked(self, number: int, wanted: np.ndarray) -> list[Record]:
        """The records of one file, each as it was written."""
        segment, positions = self.segments[self._segment_of[number]], (wanted - self._first(number)).tolist()
        rows = segment.index[wanted - segment.first]
        found = self._read(number, positions, rows["id"])
        for position, row, data in zip(positions, rows, found, strict=True):
            if xxhash.xxh3_64_intdigest(data) != row["digest"]:
                what = f"record {position} (document {row['id']:016x}) is not what was written"
                raise ValueError(f"{self._paths[number]}: {what}; {AGAIN}")
        return [unpack(data) for data in found]

    def _read(self, number: int, positions: list[int], ids: np.ndarray) -> list[bytes]:
        path = self._paths[number]
        if self._process != os.getpid():  # a fork has none of the parent's threads, which the readers lean on
            self._forget_readers()
        try:
            with self._lock:
                if number not in self._readers:
                    self._readers[number] = ArrayRecordReader(str(path), "readahead_buffer_size:0", file_reader_buffer_size=1 << 15)
            return self._readers[number].read(positions)
        except (RuntimeError, ValueError, IndexError) as error:
            if len(positions) > 1:  # one by one, to name the record
                return [self._read(number, [position], ids[i : i + 1])[0] for i, position in enumerate(positions)]
            what = f"record {positions[0]} (document {ids[0]:016x})"
            raise ValueError(f"{path}: {what} cannot be read ({error}); {AGAIN}") from error


def chained(before: str, content_hash: str) -> str:
    """The content hash of a source with one more segment."""
    return hashlib.sha256(f"{before} {content_hash}".encode()).hexdigest()


def segment_folder(folder: Path, number: int) -> Path:
    """Where segment `number` of a source lies; segment 0 is the folder itself."""
    return folder / SEGMENTS / f"{number:05}" if number else folder


def _n_segments(folder: Path) -> int:
    """How many finished segments a source has; one that is still being written has no manifest."""
    there = {int(path.parent.name) for path in folder.glob(f"{SEGMENTS}/[0-9]*/{MANIFEST}")} | {0}
    if missing := set(range(max(there))) - there:
        raise ValueError(f"{segment_folder(folder, min(missing))} is missing, and segments behind it are there; restore it or delete them")
    return len(there)


def _segment(folder: Path, *, first: int) -> Segment:
    manifest: dict[str, Any] = _load(folder / MANIFEST, lambda path: json.loads(path.read_bytes()))
    for shard in manifest["shards"]:
        size = (folder / shard["file"]).stat().st_size if (folder / shard["file"]).exists() else "no"
        if size != shard["size"]:
            raise ValueError(f"{folder / shard['file']} has {size} bytes, its manifest says {shard['size']}; {AGAIN}")
    index: np.ndarray = _load(folder / INDEX, read_array)
    if index.dtype.names is None:
        raise ValueError(f"{folder / INDEX} is of an earlier version; {AGAIN}")
    if not len(index) == manifest["documents"] == sum(shard["records"] for shard in manifest["shards"]):
        raise ValueError(f"{folder / INDEX} has {len(index)} rows, its manifest says {manifest['documents']}; {AGAIN}")
    return Segment(folder, manifest, index, first)


def _load(path: Path, read: Any) -> Any:
    try:
        return read(path)
    except (ValueError, EOFError, FileNotFoundError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {AGAIN}") from error
