"""Token shards: folders of ArrayRecord files with an index, checksums and a manifest, appended to by
further such folders.

A source is a list of immutable segments: `folder` itself, then `folder/segments/00001`, …; each manifest
names what it was put behind.
"""

import hashlib
import os
import threading
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from itertools import batched, chain, islice
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import xxhash
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from data_pipeline.files import new_folder, sha256, write_json, writing
from data_pipeline.shards.npy import new_array, read_array
from data_pipeline.shards.record import Record, id_key, pack, unpack
from data_pipeline.shards.segment import (
    AGAIN,
    AMOUNTS,
    INDEX,
    MANIFEST,
    MEND,
    SEGMENTS,  # noqa: F401 — for who looks for segments on the disk
    chained,
    index_type,
    n_segments,
    segment_at,
    segment_folder,
)

VERSION = 1  # of the bytes that the same records become
CHUNK = 4096  # records whose index rows are held at a time


def write_shards(
    folder: Path,
    records: Iterable[Record],
    *,
    source: str,
    n_bytes: int,
    shard_records: int,
    lineage: dict[str, Any],
    after: str = "",
) -> None:
    """Write `records` in their order, `shard_records` a file; `folder` appears when everything is on the
    disk.

    `n_bytes` is the size of the text in UTF-8; `lineage` says what the records were made from. Equal
    records give equal files.

    Raises:
        ValueError: records differ in their number of sequences, or a sequence is malformed. OutputError:
        the disk is full or read-only.
    """
    with new_folder(folder) as partial:
        remaining, shards = iter(records), []
        for first in remaining:
            some = chain([first], islice(remaining, shard_records - 1))
            shards.append(write_shard(partial / f"{len(shards):05}.arrayrecord", some))
        finish_shards(partial, shards, source=source, n_bytes=n_bytes, lineage=lineage, after=after)


def append_shards(folder: Path, records: Iterable[Record], **described: Any) -> Path:
    """Put one more segment behind a finished source, which is not touched; arguments as those of
    `write_shards`. Returns its folder.
    """
    segment, after = next_segment(folder)
    write_shards(segment, records, after=after, **described)
    return segment


def next_segment(folder: Path) -> tuple[Path, str]:
    """The folder of the segment that may be written next to a source, and the content hash that its
    `finish_shards` takes as `after`.
    """
    source = Shards(folder)
    return segment_folder(source.folder, len(source.segments)), source.manifest["content_hash"]


def write_shard(path: Path, records: Iterable[Record]) -> dict[str, Any]:
    """Write one shard file, whole or not at all, with its part of the index beside it; returns what the
    manifest will say of it.

    Any number of processes may write files of a folder; one then calls `finish_shards` with what they all
    returned.

    Raises:
        ValueError: records differ in their number of sequences, or a sequence is malformed. OutputError:
        the disk is full or read-only.
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


def _write_record(
    writer: ArrayRecordWriter, path: Path, record: Record, n_sequences: int
) -> tuple[int, int, list[int]]:
    """Write it; its row of the index."""
    if len(record.sequences) != n_sequences:
        raise ValueError(f"{path.parent}: {_differ(len(record.sequences), n_sequences)}")
    data = pack(record)
    with writing(path):
        writer.write(data)
    return (
        id_key(record.id),
        xxhash.xxh3_64_intdigest(data),
        [len(sequence.tokens) for sequence in record.sequences],
    )


def finish_shards(
    folder: Path,
    shards: Iterable[Mapping[str, Any]],
    *,
    source: str,
    n_bytes: int,
    lineage: dict[str, Any],
    after: str = "",
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
    content, parts = (
        hashlib.sha256(),
        [folder / Path(shard["file"]).with_suffix(".npy") for shard in shards if shard["records"]],
    )
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


def _differ(one: int, other: int) -> str:
    return f"records differ in their number of sequences ({one} and {other}); write documents and pairs to folders of their own"


class BadRecord(ValueError):
    """A record that cannot be read, or is not what was written: its file, number in it, document and the
    remedy.
    """


class Shards:
    """Random access to the records of a source; cheap to open, to pickle and to share among threads (files
    are opened at first use).

    Every record read is compared with its digest. `manifest` has the amounts and the content hash of all
    segments together.
    Unless `whole`, shard files may be missing or cut short: what was in them is bad records.

    Raises:
        FileNotFoundError: the folder or its manifest is missing. ValueError: a file is not as the manifest
        says, or a segment was put
            behind something else than what lies before it.
    """

    def __init__(self, folder: str | os.PathLike, *, whole: bool = True):
        self.folder, self.whole = Path(folder), whole
        if not (self.folder / MANIFEST).is_file():
            raise FileNotFoundError(
                f"{self.folder} holds no token shards ({MANIFEST} is missing); prepare the data first"
            )
        self.segments = [segment_at(self.folder, first=0, whole=whole)]
        content = self.segments[0].manifest["content_hash"]
        for number in range(1, n_segments(self.folder)):
            following = segment_folder(self.folder, number)
            segment = segment_at(
                following, first=self.segments[-1].first + len(self.segments[-1].index), whole=whole
            )
            if segment.manifest["after"] != content:
                raise ValueError(
                    f"{self.folder} is not what {following} was appended to; restore it, or delete that and append again"
                )
            content = chained(content, segment.manifest["content_hash"])
            self.segments.append(segment)
        amounts = {name: sum(segment.manifest[name] for segment in self.segments) for name in AMOUNTS}
        self.manifest: dict[str, Any] = {**self.segments[0].manifest, **amounts, "content_hash": content}
        files = [
            (number, shard)
            for number, segment in enumerate(self.segments)
            for shard in segment.manifest["shards"]
        ]
        self._paths = [self.segments[number].folder / shard["file"] for number, shard in files]
        self._segment_of = np.array([number for number, _ in files], np.int64)
        self._ends = np.cumsum([shard["records"] for _, shard in files], dtype=np.int64)
        self._forget_readers()

    def _forget_readers(self) -> None:
        self._readers: dict[int, ArrayRecordReader] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.folder, self.whole)

    @property
    def lengths(self) -> np.ndarray:
        """int32 [documents, sequences], from the index: no record is read for it."""
        return np.concatenate([segment.index["lengths"] for segment in self.segments])

    def verify(self) -> None:
        """Read every file and compare its SHA-256 with the manifest's.

        Raises:
            ValueError: a file was changed or damaged; it is named, and the record and its document where
            only one is.
        """
        for segment in self.segments:
            segment.check_index()
            for shard in segment.manifest["shards"]:
                path = segment.folder / shard["file"]
                if sha256(path) != shard["sha256"]:
                    self._find_damage(path)
                    raise ValueError(f"{path} is damaged (its SHA-256 is not the manifest's); {AGAIN}")

    def _find_damage(self, path: Path) -> None:
        """Read the records of a file one by one, which raises at the first one that is not as it was
        written.
        """
        number = self._paths.index(path)
        for i in range(self._first(number), int(self._ends[number])):
            unharmed(self.read([i]))

    def find(self, document_id: str) -> list[int]:
        """The numbers of the documents with an id."""
        key = np.uint64(id_key(document_id))
        found = [
            segment.first + i
            for segment in self.segments
            for i in np.flatnonzero(segment.index["id"] == key).tolist()
        ]
        read = zip(found, self.read(found), strict=True)
        return [i for i, record in read if isinstance(record, BadRecord) or record.id == document_id]

    def __len__(self) -> int:
        return self.segments[-1].first + len(self.segments[-1].index)

    def __getitem__(self, i: SupportsIndex) -> Record:
        return self.__getitems__([i])[0]

    def __getitems__(self, indices: Iterable[SupportsIndex]) -> list[Record]:
        """Many records at once, in the order asked for. Raises BadRecord where one is."""
        return unharmed(self.read(indices))

    def read(self, indices: Iterable[SupportsIndex]) -> list[Record | BadRecord]:
        """The same, errors in their places: one call a shard, ten times faster than one a record."""
        wanted = np.array([int(i) for i in indices], np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(
                f"record {wanted.max() if wanted.min() >= 0 else wanted.min()} of {self.folder}, which has {len(self)}"
            )
        file_of = np.searchsorted(self._ends, wanted, side="right")
        records: list[Any] = [None] * len(wanted)
        for number in np.unique(file_of).tolist():
            (places,) = np.nonzero(file_of == number)
            for place, record in zip(places.tolist(), self._checked(number, wanted[places]), strict=True):
                records[place] = record
        return records

    def _first(self, number: int) -> int:
        return int(self._ends[number - 1]) if number else 0

    def _checked(self, number: int, wanted: np.ndarray) -> list[Record | BadRecord]:
        """The records of one file, each as it was written, or what is wrong with it."""
        segment, positions = self.segments[self._segment_of[number]], (wanted - self._first(number)).tolist()
        rows = segment.index[wanted - segment.first]
        indexed = zip(
            positions, rows["id"].tolist(), rows["digest"].tolist(), rows["lengths"].tolist(), strict=True
        )
        found = self._read(number, positions)
        return [self._compared(number, data, *row) for data, row in zip(found, indexed, strict=True)]

    def _compared(
        self, number: int, data: bytes | str, position: int, key: int, digest: int, lengths: list[int]
    ) -> Record | BadRecord:
        where = f"{self._paths[number]}: record {position} (document {key:016x})"
        if isinstance(data, str):
            return BadRecord(f"{where} cannot be read ({data}); {MEND}")
        if xxhash.xxh3_64_intdigest(data) != digest:
            return BadRecord(f"{where} is not what was written; {MEND}")
        record = unpack(data)
        if id_key(record.id) != key or [len(sequence.tokens) for sequence in record.sequences] != lengths:
            return BadRecord(f"{where} is not what its row of {INDEX} says; {MEND}")
        return record

    def _read(self, number: int, positions: list[int]) -> list[bytes | str]:
        """The bytes of records of one file; of one that cannot be read, why."""
        if self._process != os.getpid():  # a fork has none of the parent's threads, which the readers lean on
            self._forget_readers()
        try:
            with self._lock:
                if number not in self._readers:
                    path, sizes = str(self._paths[number]), {"file_reader_buffer_size": 1 << 15}
                    self._readers[number] = ArrayRecordReader(path, "readahead_buffer_size:0", **sizes)
            return self._readers[number].read(positions)
        except (RuntimeError, ValueError, IndexError) as error:
            if len(positions) > 1:
                return [self._read(number, [position])[0] for position in positions]
            return [str(error)]


def unharmed(records: Iterable[Record | BadRecord]) -> list[Record]:
    """The records. Raises the first error among them."""
    found = list(records)
    for record in found:
        if isinstance(record, BadRecord):
            raise record
    return found


def _reopened(folder: Path, whole: bool) -> Shards:
    return Shards(folder, whole=whole)
