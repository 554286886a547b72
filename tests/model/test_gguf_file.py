"""GGUF files that lie about themselves: a sentence at once, whatever they say how much follows."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.hugging_face import gguf_file
from model.hugging_face.gguf import open_gguf

HUGE = 1 << 62
U32, F32, TEXT, LIST = 4, 6, 8, 9  # types of values
Q4_0, I32, F32_TENSOR = 2, 26, 0


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def entries(kind: int, n: int, data: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, n) + data


def tensor(name: str, *sizes: int, kind: int = F32_TENSOR, start: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, start)


def whole(
    keys: list[bytes],
    tensors: tuple[bytes, ...] = (),
    *,
    n_keys: int | None = None,
    n_tensors: int | None = None,
    data: bytes = bytes(64),
) -> bytes:
    """A file of these parts, which may say another number of them."""
    n_keys = len(keys) if n_keys is None else n_keys
    n_tensors = len(tensors) if n_tensors is None else n_tensors
    head = b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_keys) + b"".join([*keys, *tensors])
    return head + bytes(-len(head) % 32) + data


A = key("a", U32, struct.pack("<I", 7))
NESTED = entries(LIST, 1) * 100_000
ATTACKS: dict[str, tuple[bytes, str]] = {
    "no magic": (b"GGML" + bytes(100), "does not begin with GGUF"),
    "empty": (b"", "empty"),
    "of big-endian order": (b"GGUF" + struct.pack(">I", 3) + bytes(100), "version is 50331648"),
    "keys without end": (whole([], n_keys=1 << 63), "9223372036854775808 keys are said to follow"),
    "tensors without end": (whole([], n_tensors=HUGE), "tensors are said to follow"),
    "more keys than there are": (whole([A], n_keys=3), "the key '' is there twice"),
    "a list without end": (whole([key("a", LIST, entries(U32, HUGE))]), "entries are said to"),
    "texts without end": (whole([key("a", LIST, entries(TEXT, HUGE))]), "entries are said to"),
    "a list of nothing": (whole([key("a", LIST, entries(99, 3))]), "has entries of type 99"),
    "lists in lists": (whole([key("a", LIST, NESTED)]), "has entries of type 9"),
    "a text without end": (whole([key("a", TEXT, struct.pack("<Q", 1 << 63))]), "letters are said"),
    "a text of -1": (whole([key("a", TEXT, b"\xff" * 8)]), "letters are said"),
    "a key without end": (whole([struct.pack("<Q", HUGE)]), "letters are said"),
    "no UTF-8": (whole([key("a", TEXT, text(b"\xff\xfe"))]), "utf-8"),
    "an unknown type": (whole([key("a", 99, bytes(8))]), "of the unknown type 99"),
    "a key twice": (whole([A, A]), "the key 'a' is there twice"),
    "an alignment of 0": (whole([key("general.alignment", U32, bytes(4))]), "alignment=0 is no"),
    "an alignment in words": (whole([key("general.alignment", TEXT, text("8"))]), "alignment='8'"),
    "a size of 0": (whole([], [tensor("t", 4, 0)]), r"has shape \[0, 4\]"),
    "a size of 2^63": (whole([], [tensor("t", 1 << 63)]), "ends at byte 36893488147419103"),
    "sizes that overflow": (whole([], [tensor("t", *[1 << 63] * 4)]), "ends at byte"),
    "no sizes": (whole([], [tensor("t")]), r"has shape \[\]"),
    "a thousand sizes": (whole([], [tensor("t", *[1] * 1000)]), "has 1000 dimensions"),
    "an unknown kind": (whole([], [tensor("t", 4, kind=999)]), "of the unknown type 999"),
    "a cut block": (
        whole([], [tensor("t", 33, kind=Q4_0)]),
        "rows of 33, no multiple of Q4_0's 32",
    ),
    "outside": (whole([], [tensor("t", 4, start=1 << 63)]), "and the file at"),
    "within another": (whole([], [tensor("t", 8), tensor("u", 8, start=16)]), "'u' begins within"),
    "a tensor twice": (whole([], [tensor("t", 4), tensor("t", 4, start=32)]), "'t' is there twice"),
}


@pytest.mark.parametrize(("data", "message"), ATTACKS.values(), ids=ATTACKS)
def test_a_file_that_lies_about_itself_is_refused_in_a_sentence(data, message, tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        open_gguf(path)
    assert str(error.value).startswith(f"{path} is cut short or damaged (")
    assert str(error.value).endswith("; download it again")


def test_a_file_cut_anywhere_in_its_metadata_is_refused(tmp_path):
    keys = [A, key("b", LIST, entries(TEXT, 2, text("x") + text("y")))]
    data = whole(keys, [tensor("t", 16)])
    path = tmp_path / "a.gguf"
    for n in range(len(data)):
        path.write_bytes(data[:n])
        with pytest.raises(ValueError):
            gguf_file.read(path)


def test_metadata_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_file, "MOST_ENTRIES", 5)
    lists = [key(name, LIST, entries(U32, 3, bytes(12))) for name in "ab"]
    path = tmp_path / "a.gguf"
    path.write_bytes(whole(lists))
    with pytest.raises(ValueError, match="3 entries are said to follow"):
        gguf_file.read(path)
    monkeypatch.undo()
    monkeypatch.setattr(gguf_file, "MOST_BYTES", 50)
    with pytest.raises(ValueError, match="its metadata is longer"):
        gguf_file.read(path)


def test_what_a_file_says_is_read_as_it_is(tmp_path):
    scalars: dict[str, tuple[int, str, Any]] = {
        "u8": (0, "B", 255),
        "i8": (1, "b", -1),
        "u16": (2, "H", 65_535),
        "i16": (3, "h", -2),
        "i32": (5, "i", -3),
        "f32": (6, "f", 0.5),
        "bool": (7, "?", True),
        "u64": (10, "Q", (1 << 64) - 1),
        "i64": (11, "q", -4),
        "f64": (12, "d", 1e300),
    }
    keys = [
        key(name, kind, struct.pack("<" + form, x)) for name, (kind, form, x) in scalars.items()
    ]
    keys += [key("text", TEXT, text("é")), key("list", LIST, entries(F32, 2, bytes(8)))]
    x = np.arange(6, dtype=np.float32)
    path = tmp_path / "a.gguf"
    path.write_bytes(whole(keys, [tensor("x", 3, 2)], data=x.tobytes()))
    metadata, (stored,) = gguf_file.read(path)
    assert metadata == {name: value for name, (*_, value) in scalars.items()} | {
        "text": "é",
        "list": [0.0, 0.0],
    }
    assert stored.shape == (2, 3)
    np.testing.assert_array_equal(stored.data, x.reshape(2, 3))


def test_kinds_of_numbers_that_are_no_weights_are_refused(tmp_path):
    path = Path(tmp_path / "a.gguf")
    path.write_bytes(whole([], [tensor("t", 4, kind=I32)]))
    with pytest.raises(
        ValueError, match="has 't' as I32, which cannot be made floats; take safetens"
    ):
        open_gguf(path)
