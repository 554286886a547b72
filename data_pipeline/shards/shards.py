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

from data_pipeline.files import new_folder, partial_file, sha256, write_json, writing
from data_pipeline.shards.npy import new_array, read_array
from data_pipeline.shards.record import Record, id_key, pack, unpack
from data_pipeline.shards.segment import (
    AGAIN,
    AMOUNTS,
    INDEX,
    MANIFEST,
    MEND,
    SHARD_FIELDS,
    Segment,
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
        shards: list[dict[str, Any]] = []
        remaining = iter(records)
        for first in remaining:
            # From the same iterator, so that no file is held in memory.
            of_shard = chain([first], islice(remaining, shard_records - 1))
            shards.append(write_shard(partial / f"{len(shards):05}.arrayrecord", of_shard))
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
    # Opening checks that no file of the source is missing.
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
    # The shard file appears after its part of the index, so if it exists both are complete.
    with partial_file(path) as partial:
        amounts = _write_records(partial, path, records)
    return {"file": path.name, "size": path.stat().st_size, "sha256": sha256(path), **amounts}


def _write_records(partial: Path, path: Path, records: Iterable[Record]) -> dict[str, int]:
    """Write `partial`, which will be `path`, and its part of the index."""
    # the first chunk tells of how many sequences the records are
    chunks = batched(records, CHUNK)
    first = next(chunks, ())
    n_sequences = len(first[0].sequences) if first else 1
    n_records = 0
    n_tokens = 0
    # beside the shard until `finish_shards` has put all parts of the index together
    with new_array(path.with_suffix(".npy"), index_type(n_sequences)) as append:
        with writing(path):
            # A group for each record, so that one can be read without its neighbours.
            writer = ArrayRecordWriter(str(partial), "group_size:1")
        for chunk in chain([first], chunks):
            rows = np.zeros(len(chunk), index_type(n_sequences))
            for i, record in enumerate(chunk):
                rows[i] = _write_record(writer, path, record, n_sequences)
            append(rows)
            n_records += len(rows)
            n_tokens += int(rows["lengths"].sum(dtype=np.int64))
        with writing(path):
            writer.close()
    return {"records": n_records, "tokens": n_tokens, "sequences": n_sequences}


def _write_record(
    writer: ArrayRecordWriter, path: Path, record: Record, n_sequences: int
) -> tuple[int, int, list[int]]:
    """Write a record; returns its row of the index: key of the id, digest, tokens of each sequence."""
    # rows of the index have one length for all
    if len(record.sequences) != n_sequences:
        raise ValueError(f"{path.parent}: {_differ(len(record.sequences), n_sequences)}")
    # The digest is of the stored bytes, so that a reader need not encode the record again.
    data = pack(record)
    with writing(path):
        writer.write(data)
    lengths = [len(sequence.tokens) for sequence in record.sequences]
    return id_key(record.id), xxhash.xxh3_64_intdigest(data), lengths


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

    # A file without records does not count.
    widths = sorted({shard["sequences"] for shard in shards if shard["records"]})
    if len(widths) > 1:
        raise ValueError(f"{folder}: {_differ(*widths)}")

    # The hash is over the records in their order, however they are divided into files.
    content = hashlib.sha256()
    with new_array(folder / INDEX, index_type(widths[0] if widths else 1)) as append:
        for shard in shards:
            if shard["records"]:
                rows = read_array((folder / shard["file"]).with_suffix(".npy"))
                append(rows)
                content.update(np.ascontiguousarray(rows["digest"]))
    manifest = {
        "source": source,
        "documents": sum(shard["records"] for shard in shards),
        "tokens": sum(shard["tokens"] for shard in shards),
        "bytes": n_bytes,
        "content_hash": content.hexdigest(),
        "after": after,
        "shards": [{name: shard[name] for name in SHARD_FIELDS} for shard in shards],
        "index_sha256": sha256(folder / INDEX),
        "tools": {name: version(name) for name in ("array_record", "msgpack", "sentencepiece")},
        "lineage": lineage,
    }
    # Sealed: it proves all other files, and nothing else proves it.
    write_json(folder / MANIFEST, manifest, sealed=True)

    # only now: a kill before must find the parts of the index again
    for shard in shards:
        (folder / shard["file"]).with_suffix(".npy").unlink(missing_ok=True)


def _differ(one: int, other: int) -> str:
    return (
        f"records differ in their number of sequences ({one} and {other}); write documents and pairs to "
        "folders of their own"
    )


class BadRecord(ValueError):
    """A record that cannot be read, or is not what was written: its file, number in it, document and the
    remedy.
    """


class Shards:
    """Random access to the records of a source; cheap to open, to pickle and to share among threads (files
    are opened at first use).

    Every record read is compared with its digest. Unless `whole`, shard files may be missing or cut short:
    what was in them is bad records.

    Attributes:
        folder: Of the source.
        whole: Whether every file must be there.
        segments: In order; a record's number is counted through them.
        manifest: The first segment's, with the amounts and the content hash of all together.

    Raises:
        FileNotFoundError: the folder or its manifest is missing. ValueError: a file is not as the manifest
        says, or a segment was put behind something else than what lies before it.
    """

    def __init__(self, folder: str | os.PathLike, *, whole: bool = True):
        self.folder = Path(folder)
        self.whole = whole
        if not (self.folder / MANIFEST).is_file():
            raise FileNotFoundError(
                f"{self.folder} holds no token shards ({MANIFEST} is missing); prepare the data first"
            )

        # a chain of hashes: no segment can be changed or taken out unseen
        self.segments, content = self._open_segments()
        amounts = {
            name: sum(segment.manifest[name] for segment in self.segments) for name in AMOUNTS
        }
        self.manifest: dict[str, Any] = {
            **self.segments[0].manifest,
            **amounts,
            "content_hash": content,
        }

        # the files of all segments, counted through
        self._paths: list[Path] = []
        segment_of: list[int] = []
        sizes: list[int] = []
        for number, segment in enumerate(self.segments):
            for shard in segment.manifest["shards"]:
                self._paths.append(segment.folder / shard["file"])
                segment_of.append(number)
                sizes.append(shard["records"])
        self._segment_of = np.array(segment_of, np.int64)
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self._forget_readers()

    def _open_segments(self) -> tuple[list[Segment], str]:
        """The segments, and the content hash of all together."""
        segments = [segment_at(self.folder, first=0, whole=self.whole)]
        # The hash of all segments so far, which the next manifest has to name as `after`.
        content = segments[0].manifest["content_hash"]
        for number in range(1, n_segments(self.folder)):
            following = segment_folder(self.folder, number)
            first = segments[-1].first + len(segments[-1].index)
            segment = segment_at(following, first=first, whole=self.whole)
            if segment.manifest["after"] != content:
                raise ValueError(
                    f"{self.folder} is not what {following} was appended to; restore it, or delete that and "
                    "append again"
                )
            content = chained(content, segment.manifest["content_hash"])
            segments.append(segment)
        return segments, content

    def _forget_readers(self) -> None:
        """Begin without open files: at first, after a fork and after pickling."""
        self._readers: dict[int, ArrayRecordReader] = {}
        # A lock cannot be pickled, and a forked one may be held by a thread that is not there.
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.folder, self.whole)

    @property
    def lengths(self) -> np.ndarray:
        """int32 [documents, sequences], from the index: no record is read for it."""
        # a copy, 4 bytes a sequence: the index itself stays on the disk
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
                # a quick pass over the bytes; only a damaged file is read by record
                if sha256(path) != shard["sha256"]:
                    self._find_damage(path)
                    # All records are intact, so the damage is between them.
                    raise ValueError(
                        f"{path} is damaged (its SHA-256 is not the manifest's); {AGAIN}"
                    )

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
        numbers: list[int] = []
        for segment in self.segments:
            numbers += (segment.first + np.flatnonzero(segment.index["id"] == key)).tolist()

        # the index has 64 bits of an id, so another one may share them; of a bad record nothing more is known
        read = zip(numbers, self.read(numbers), strict=True)
        return [
            i for i, record in read if isinstance(record, BadRecord) or record.id == document_id
        ]

    def __len__(self) -> int:
        # `first` of a segment is the number of documents before it.
        return self.segments[-1].first + len(self.segments[-1].index)

    def __getitem__(self, i: SupportsIndex) -> Record:
        return self.__getitems__([i])[0]

    def __getitems__(self, indices: Iterable[SupportsIndex]) -> list[Record]:
        """Many records at once, in the order asked for.

        Raises:
            BadRecord: one cannot be read, or is not what was written.
        """
        return unharmed(self.read(indices))

    def read(self, indices: Iterable[SupportsIndex]) -> list[Record | BadRecord]:
        """The same, errors in the place of their records: one call a shard, ten times faster than one a
        record.
        """
        wanted = np.array([int(i) for i in indices], np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            outside = wanted.max() if wanted.min() >= 0 else wanted.min()
            raise IndexError(f"record {outside} of {self.folder}, which has {len(self)}")

        # the first file whose end is beyond the record
        file_of = np.searchsorted(self._ends, wanted, side="right")
        records: list[Any] = [None] * len(wanted)
        # Files in ascending order, whatever the order asked for: each is opened and read once.
        for number in np.unique(file_of).tolist():
            (in_file,) = np.nonzero(file_of == number)
            checked = self._checked(number, wanted[in_file])
            for i, record in zip(in_file.tolist(), checked, strict=True):
                records[i] = record
        return records

    def _first(self, number: int) -> int:
        """The number of the first record of a file."""
        return int(self._ends[number - 1]) if number else 0

    def _checked(self, number: int, wanted: np.ndarray) -> list[Record | BadRecord]:
        """The records of one file, each as it was written, or what is wrong with it."""
        segment = self.segments[self._segment_of[number]]
        rows = segment.index[wanted - segment.first]
        positions = (wanted - self._first(number)).tolist()

        # as lists of plain numbers: taking fields out of rows one by one would cost as much as reading
        columns = (rows[name].tolist() for name in ("id", "digest", "lengths"))
        checked: list[Record | BadRecord] = []
        for data, position, *row in zip(
            self._read(number, positions), positions, *columns, strict=True
        ):
            record = _compared(data, *row)
            if isinstance(record, str):
                where = f"{self._paths[number]}: record {position} (document {row[0]:016x})"
                checked.append(BadRecord(f"{where} {record}; {MEND}"))
            else:
                checked.append(record)
        return checked

    def _read(self, number: int, positions: list[int]) -> list[bytes | str]:
        """The bytes of records of one file; of one that cannot be read, why."""
        # A forked process has none of the parent's threads, on which the readers depend.
        if self._process != os.getpid():
            self._forget_readers()
        try:
            # two threads may want the same file at its first use
            with self._lock:
                if number not in self._readers:
                    self._readers[number] = _reader(self._paths[number])
            return self._readers[number].read(positions)
        except (RuntimeError, ValueError, IndexError) as error:
            # One bad record fails the whole call; one by one the others can be read.
            if len(positions) > 1:
                return [self._read(number, [position])[0] for position in positions]
            return [str(error)]


def _reader(path: Path) -> ArrayRecordReader:
    # records are asked for in random order, so reading ahead would only fill memory
    return ArrayRecordReader(str(path), "readahead_buffer_size:0", file_reader_buffer_size=1 << 15)


def _compared(data: bytes | str, key: int, digest: int, lengths: list[int]) -> Record | str:
    """The record in `data`, or what is wrong with it; a text says why there are no bytes."""
    if isinstance(data, str):
        return f"cannot be read ({data})"
    if xxhash.xxh3_64_intdigest(data) != digest:
        return "is not what was written"
    # Only now: bytes that fail the digest must not reach a parser.
    record = unpack(data)
    if (
        id_key(record.id) != key
        or [len(sequence.tokens) for sequence in record.sequences] != lengths
    ):
        return f"is not what its row of {INDEX} says"
    return record


def unharmed(records: Iterable[Record | BadRecord]) -> list[Record]:
    """The records as a list, if none of them is bad.

    Raises:
        BadRecord: the first one among them.
    """
    read_records = list(records)
    for record in read_records:
        if isinstance(record, BadRecord):
            raise record
    return read_records


def _reopened(folder: Path, whole: bool) -> Shards:
    # Pickled as a path: a process that reads ahead maps the index itself.
    return Shards(folder, whole=whole)
