"""The parts of a GGUF file: its metadata, and its tensors as they are stored (the layout is that of ggml's
docs/gguf.md).

A file says of itself how many entries, letters and dimensions follow. All of these are checked against its
length before anything is made of them, which the reader of the library `gguf` does not: it would count to
2^62 in a file of 100 bytes.
"""

import math
import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {  # number of a type of values → its form in Python's struct
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
TEXT, LIST = 8, 9
# Limits far beyond every model, so that a file of many gigabytes cannot fill the memory with metadata: the
# largest vocabularies have a quarter of a million entries, each with a score, a type and some merges.
MOST_KEYS = 1 << 16
MOST_TENSORS = 1 << 17
MOST_ENTRIES = 1 << 21  # of all lists together
MOST_BYTES = 1 << 27  # of all metadata
MOST_DIMENSIONS = 4  # of ggml's tensors
ALIGNMENT = 32  # of tensors, where the metadata does not say


class Stored(NamedTuple):
    """A tensor in a file; `kind` is the GGMLQuantizationType of its blocks, `data` what
    `gguf.quants.dequantize` takes.
    """

    name: str
    shape: tuple[int, ...]  # in numpy's order: GGUF lists the fastest dimension first
    kind: Any
    data: np.ndarray


class _Info(NamedTuple):
    """What a file says of a tensor; `start` is counted from the first tensor's."""

    name: str
    shape: tuple[int, ...]
    number: int
    start: int


def read(path: Path) -> tuple[dict[str, Any], list[Stored]]:
    """The metadata of a file by its keys, and its tensors, whose numbers stay in the file.

    Raises:
        ValueError: the file is no GGUF, or contradicts itself.
        ImportError: the library `gguf` is not installed.
    """
    with path.open("rb") as file:
        # mapped into memory: of tensors, only what is read later is ever loaded
        cursor = _Cursor(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if cursor.bytes(4) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    version = cursor.number("I")
    if version not in VERSIONS:
        # the version of a big-endian file is 3 · 2^24 here
        raise ValueError(f"its version is {version}, not 3 in little-endian order")
    n_tensors, n_keys = cursor.count("tensors", MOST_TENSORS), cursor.count("keys", MOST_KEYS)
    metadata: dict[str, Any] = {}
    for _ in range(n_keys):
        key = cursor.text()
        if key in metadata:
            raise ValueError(f"the key {key!r:.60} is there twice")
        metadata[key] = cursor.value(cursor.number("I"))
    infos = [cursor.info() for _ in range(n_tensors)]
    alignment = metadata.get("general.alignment", ALIGNMENT)
    is_power_of_2 = type(alignment) is int and alignment > 0 and alignment & (alignment - 1) == 0
    if not is_power_of_2:
        raise ValueError(f"general.alignment={alignment!r:.40} is no power of 2")
    first = -(-cursor.at // alignment) * alignment  # rounded up
    return metadata, _stored(cursor.data, infos, first)


class _Cursor:
    """A place in the metadata, from which values are read one after the other."""

    def __init__(self, data: mmap.mmap):
        self.data = data
        self.at = 0
        self.entries_left = MOST_ENTRIES

    def bytes(self, n: int) -> bytes:
        """The next n bytes."""
        end = self.at + n
        if end > len(self.data):
            raise ValueError(f"{n} bytes are said to follow byte {self.at}, and it ends before")
        if end > MOST_BYTES:
            raise ValueError(f"its metadata is longer than {MOST_BYTES >> 20} MiB")
        self.at = end
        return self.data[end - n : end]

    def number(self, form: str) -> Any:
        """The next number; `form` is one of `SCALARS`."""
        return struct.unpack(f"<{form}", self.bytes(struct.calcsize(f"<{form}")))[0]

    def count(self, what: str, most: int) -> int:
        """The next number of things, of which every one takes a byte or more."""
        n = self.number("Q")
        if n > min(most, len(self.data) - self.at):
            raise ValueError(f"{n} {what} are said to follow byte {self.at}")
        return n

    def text(self) -> str:
        """The next text."""
        return self.bytes(self.count("letters", MOST_BYTES)).decode()

    def value(self, kind: int) -> Any:
        """The next value of the metadata, of type number `kind`."""
        if kind == TEXT:
            return self.text()
        if kind == LIST:
            return self.entries()
        if kind not in SCALARS:
            raise ValueError(f"a value before byte {self.at} is of the unknown type {kind}")
        return self.number(SCALARS[kind])

    def entries(self) -> list[Any]:
        """The next list; the lists of models hold numbers or texts, none of them other lists."""
        kind = self.number("I")
        n = self.count("entries", self.entries_left)
        self.entries_left -= n
        if kind == TEXT:
            return [self.text() for _ in range(n)]
        if kind not in SCALARS:
            raise ValueError(f"a list before byte {self.at} has entries of type {kind}")
        form = f"<{n}{SCALARS[kind]}"
        return list(struct.unpack(form, self.bytes(struct.calcsize(form))))

    def info(self) -> _Info:
        """The next description of a tensor."""
        name = self.text()
        n_dimensions = self.number("I")
        if n_dimensions > MOST_DIMENSIONS:
            raise ValueError(f"the tensor {name!r:.60} has {n_dimensions} dimensions")
        sizes = [self.number("Q") for _ in range(n_dimensions)]
        return _Info(name, tuple(reversed(sizes)), self.number("I"), self.number("Q"))


def _stored(data: mmap.mmap, infos: list[_Info], first: int) -> list[Stored]:
    """The tensors, the first of which may begin at byte `first`.

    Raises:
        ValueError: one has an impossible shape or type, or shares bytes with another or with the metadata.
    """
    seen: set[str] = set()
    end = first
    tensors = {}
    for info in sorted(infos, key=lambda info: info.start):
        if info.name in seen:
            raise ValueError(f"the tensor {info.name!r:.60} is there twice")
        seen.add(info.name)
        start = first + info.start
        if start < end:
            raise ValueError(f"the tensor {info.name!r:.60} begins within another one")
        tensor, end = _tensor(data, info, start)
        tensors[info.name] = tensor
    return [tensors[info.name] for info in infos]


def _tensor(data: mmap.mmap, info: _Info, start: int) -> tuple[Stored, int]:
    """A tensor that begins at byte `start`, and where it ends."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import quant_shape_to_byte_shape

    name = f"the tensor {info.name!r:.60}"
    if not info.shape or min(info.shape) == 0:
        raise ValueError(f"{name} has shape {list(info.shape)}")
    # a member of the enumeration equals its number
    kind = next((kind for kind in GGML_QUANT_SIZES if kind == info.number), None)
    if kind is None:
        raise ValueError(f"{name} is of the unknown type {info.number}")
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if info.shape[-1] % block:
        raise ValueError(
            f"{name} has rows of {info.shape[-1]}, no multiple of {kind.name}'s {block}"
        )
    n_bytes = math.prod(info.shape) // block * block_bytes
    end = start + n_bytes
    if end > len(data):
        raise ValueError(f"{name} ends at byte {end}, and the file at {len(data)}")
    # `dequantize` takes whole numbers of these two as such, and of all other kinds the bytes
    plain = {GGMLQuantizationType.F32: "<f4", GGMLQuantizationType.F16: "<f2"}
    if kind in plain:
        x = np.frombuffer(data, plain[kind], math.prod(info.shape), start).reshape(info.shape)
    else:
        shape = quant_shape_to_byte_shape(info.shape, kind)
        x = np.frombuffer(data, np.uint8, n_bytes, start).reshape(shape)
    return Stored(info.name, info.shape, kind, x), end
