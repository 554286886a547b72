"""Token shards: a folder of ArrayRecord files with an index of lengths, checksums and a manifest."""

import hashlib
import itertools
import json
import os
import threading
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from data_pipeline.files import new_folder, sha256, write_json, writing

MANIFEST, INDEX = "manifest.json", "index.npy"
AGAIN = "delete the folder and prepare the data again"


class Sequence(NamedTuple):
    """Tokens and which of them are targets: `tokens` int32 [n], `weight` uint8 [n], 1 = the token is a target."""

    tokens: np.ndarray
    weight: np.ndarray


class Record(NamedTuple):
    """A document or a conversation has one sequence; a preference pair has two, chosen before rejected."""

    id: str
    sequences: tuple[Sequence, ...]


def write_shards(
    folder: Path, records: Iterable[Record], *, source: str, n_bytes: int, shard_records: int, lineage: dict[str, Any]
) -> None:
    """Write `records` in their order, `shard_records` a file; `folder` appears when everything is on the disk.

    `n_bytes` is the size of the text in UTF-8; `lineage` says what the records were made from. Equal records give equal files.

    Raises:
        ValueError: records differ in their number of sequences, or a sequence is malformed. OutputError: the disk is full or read-only.
    """
    with new_folder(folder) as partial:
        content = hashlib.sha256()
        lengths: list[list[int]] = []
        shards = []
        remaining = iter(records)
        for first in remaining:
            path, n_before = partial / f"{len(shards):05}.arrayrecord", len(lengths)
            _write_file(path, itertools.chain([first], itertools.islice(remaining, shard_records - 1)), content=content, lengths=lengths)
            shards.append({"file": path.name, "records": len(lengths) - n_before, "size": path.stat().st_size, "sha256": sha256(path)})
        if len({len(row) for row in lengths}) > 1:
            raise ValueError(f"{folder}: records differ in their number of sequences; write documents and pairs to folders of their own")
        index = np.array(lengths, np.int32).reshape(len(lengths), -1 if lengths else 1)
        with writing(partial / INDEX):
            np.save(partial / INDEX, index)
        manifest = {
            "source": source,
            "documents": len(index),
            "tokens": int(index.sum()),
            "bytes": n_bytes,
            "content_hash": content.hexdigest(),
            "shards": shards,
            "index_sha256": sha256(partial / INDEX),
            "tools": {name: version(name) for name in ("array_record", "msgpack", "sentencepiece")},
            "lineage": lineage,
        }
        write_json(partial / MANIFEST, manifest)


def _write_file(path: Path, records: Iterable[Record], *, content: Any, lengths: list[list[int]]) -> None:
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        data = pack(record)
        content.update(len(data).to_bytes(8, "little") + data)
        lengths.append([len(sequence.tokens) for sequence in record.sequences])
        with writing(path):
            writer.write(data)
    with writing(path):
        writer.close()


def pack(record: Record) -> bytes:
    """A record as bytes, which depend on nothing else: tokens in 16 bits where they fit, weights only where one is 0.

    Raises:
        ValueError: a sequence is empty, or its tokens and weights differ in number.
    """
    packed = []
    for tokens, weight in record.sequences:
        if not 0 < len(tokens) == len(weight):
            raise ValueError(f"record {record.id}: {len(tokens)} tokens with {len(weight)} weights; there must be tokens, one weight each")
        width = "<u2" if tokens.max() < 1 << 16 else "<u4"
        packed.append((len(tokens), tokens.astype(width).tobytes(), None if weight.all() else weight.astype(np.uint8).tobytes()))
    return msgpack.packb((record.id, packed))


def unpack(data: bytes) -> Record:
    """The record that `pack` made into `data`."""
    name, packed = msgpack.unpackb(data)
    sequences = []
    for n, tokens, weight in packed:
        tokens = np.frombuffer(tokens, "<u2" if len(tokens) == 2 * n else "<u4").astype(np.int32)
        sequences.append(Sequence(tokens, np.ones(n, np.uint8) if weight is None else np.frombuffer(weight, np.uint8)))
    return Record(name, tuple(sequences))


class Shards:
    """Random access to a folder of shards; cheap to open, to pickle and to share among threads (files are opened at first use).

    `lengths` int32 [documents, sequences] comes from the index: no record is read for it.

    Raises:
        FileNotFoundError: the folder or its manifest is missing. ValueError: a file is not as the manifest says.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        if not (self.folder / MANIFEST).is_file():
            raise FileNotFoundError(f"{self.folder} holds no token shards ({MANIFEST} is missing); prepare the data first")
        self.manifest: dict[str, Any] = _load(self.folder / MANIFEST, lambda path: json.loads(path.read_bytes()))
        for shard in self.manifest["shards"]:
            size = (self.folder / shard["file"]).stat().st_size if (self.folder / shard["file"]).exists() else "no"
            if size != shard["size"]:
                raise ValueError(f"{self.folder / shard['file']} has {size} bytes, its manifest says {shard['size']}; {AGAIN}")
        self.lengths: np.ndarray = _load(self.folder / INDEX, lambda path: np.load(path, allow_pickle=False))
        self._ends = np.cumsum([shard["records"] for shard in self.manifest["shards"]], dtype=np.int64)
        if not len(self.lengths) == self.manifest["documents"] == (self._ends[-1] if len(self._ends) else 0):
            raise ValueError(f"{self.folder / INDEX} has {len(self.lengths)} rows, its manifest says {self.manifest['documents']}; {AGAIN}")
        self._forget_readers()

    def _forget_readers(self) -> None:
        self._readers: dict[int, ArrayRecordReader] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_readers", "_lock", "_process")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget_readers()

    def verify(self) -> None:
        """Read every file and compare its SHA-256 with the manifest's.

        Raises:
            ValueError: a file was changed or damaged.
        """
        expected = {INDEX: self.manifest["index_sha256"], **{shard["file"]: shard["sha256"] for shard in self.manifest["shards"]}}
        for file, digest in expected.items():
            if sha256(self.folder / file) != digest:
                raise ValueError(f"{self.folder / file} is damaged (its SHA-256 is not the manifest's); {AGAIN}")

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: SupportsIndex) -> Record:
        return self.__getitems__([i])[0]

    def __getitems__(self, indices: Iterable[SupportsIndex]) -> list[Record]:
        """Many records at once, in the order asked for: one call a shard, ten times faster than one a record."""
        wanted = np.array([int(i) for i in indices], np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"record {wanted.max() if wanted.min() >= 0 else wanted.min()} of {self.folder}, which has {len(self)}")
        shard_of = np.searchsorted(self._ends, wanted, side="right")
        records: list[Any] = [None] * len(wanted)
        for shard in np.unique(shard_of).tolist():
            (places,) = np.nonzero(shard_of == shard)
            first = int(self._ends[shard]) - self.manifest["shards"][shard]["records"]
            for place, data in zip(places.tolist(), self._read(shard, (wanted[places] - first).tolist()), strict=True):
                records[place] = unpack(data)
        return records

    def _read(self, shard: int, positions: list[int]) -> list[bytes]:
        path = self.folder / self.manifest["shards"][shard]["file"]
        if self._process != os.getpid():  # a fork has none of the parent's threads, which the readers lean on
            self._forget_readers()
        try:
            with self._lock:
                if shard not in self._readers:
                    self._readers[shard] = ArrayRecordReader(str(path), "readahead_buffer_size:0", file_reader_buffer_size=1 << 15)
            return self._readers[shard].read(positions)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(f"{path} cannot be read ({error}); {AGAIN}") from error


def _load(path: Path, read: Any) -> Any:
    try:
        return read(path)
    except (ValueError, EOFError, FileNotFoundError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {AGAIN}") from error
