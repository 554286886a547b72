"""A Hugging Face checkpoint to read: its config, the shapes of its tensors, and its files."""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Listed only to refuse them with a reason: unpickling can run any code.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# The largest models have some 10^5 tensors, whose names and shapes take 130 bytes each. Without a limit a
# file could fill the memory with them.
MOST_JSON_BYTES = 1 << 25


class File(NamedTuple):
    """A file of tensors.

    Attributes:
        path: The file.
        shapes: Name → shape of the tensors in it.
        open: Makes a context that gives name → tensor; values are read when a tensor is sliced.
        dtypes: Name → dtype in the words of safetensors, such as BF16; empty where all are floats.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    open: Callable[[], AbstractContextManager[Mapping[str, Any]]]
    dtypes: Mapping[str, str] = {}


class Checkpoint(NamedTuple):
    """A checkpoint; `config` is config.json, or the same fields from the metadata of a GGUF file."""

    path: Path
    config: dict[str, Any]
    files: tuple[File, ...]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of the tensors of all files."""
        return {name: shape for file in self.files for name, shape in file.shapes.items()}

    def dtypes(self) -> dict[str, str]:
        """Name → dtype of the tensors of all files that name them."""
        return {name: dtype for file in self.files for name, dtype in file.dtypes.items()}


def open_folder(folder: Path) -> Checkpoint:
    """Open a folder with config.json and one or more safetensors files.

    Raises:
        ValueError: something is missing, or a file is cut short or damaged. Pickles (.bin, .pt) are never
            read.
    """
    # config.json first: a folder without it is not a checkpoint, whatever else it holds
    config = read_json(folder / "config.json")
    files = tuple(_file(path) for path in _paths(folder))
    _check_once(files)
    return Checkpoint(folder, config, files)


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        ValueError: the file is missing, or does not hold a JSON object.
    """
    try:
        # of a pipe or a device, which have no size, the end might never come
        _check_file(path, most_bytes=MOST_JSON_BYTES)
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        remedy = "name the folder of a Hugging Face checkpoint"
        raise ValueError(f"{path.parent} has no {path.name}; {remedy}") from None
    # of its size, of the JSON, of bytes that are not UTF-8, or of brackets within brackets without end
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object; download it again")
    return value


def _check_file(path: Path, *, most_bytes: int | None = None) -> None:
    """Raises ValueError: it is no file, or a larger one. FileNotFoundError: there is nothing."""
    n_bytes = path.stat().st_size
    if not path.is_file():
        raise ValueError("it is no file")
    if most_bytes is not None and n_bytes > most_bytes:
        raise ValueError(f"it has {n_bytes:,} bytes")


def _paths(folder: Path) -> list[Path]:
    """The safetensors files of a folder: the one that transformers reads, or those in its index, or all if it
    has neither.
    """
    # Some folders hold a second copy of the weights in another layout, or of another training.
    if (folder / WHOLE).exists():
        return [folder / WHOLE]
    if (folder / INDEX).exists():
        return _indexed_paths(folder)
    safetensors = sorted(folder.glob("*.safetensors"))
    if safetensors:
        return safetensors
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ValueError(
            f"{folder} has only pickles ({pickles[0]}), which can run any code when they are read and are "
            "never opened here; convert them to safetensors, or take a checkpoint that has them"
        )
    remedy = "name the folder of a Hugging Face checkpoint, or a .gguf file"
    raise ValueError(f"{folder} has no safetensors; {remedy}")


def _indexed_paths(folder: Path) -> list[Path]:
    weight_map = read_json(folder / INDEX).get("weight_map")
    listed = weight_map.values() if isinstance(weight_map, dict) else ()
    # A name with folders in it could lead outside of the checkpoint.
    if strange := [name for name in listed if not _is_file_name(name)]:
        remedy = "a file beside it is expected, download the checkpoint again"
        raise ValueError(f"{folder / INDEX} lists {strange[0]!r:.80}; {remedy}")
    names = set(listed)
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing or not names:
        listed = ", ".join(missing) or "no file"
        remedy = "download the checkpoint again"
        raise ValueError(f"{folder / INDEX} lists {listed:.200}, not in the folder; {remedy}")
    return [folder / name for name in sorted(names)]


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name


def _check_once(files: tuple[File, ...]) -> None:
    """Refuse tensors that are in two files: which of them is meant cannot be known."""
    file_of: dict[str, Path] = {}
    for file in files:
        for name in file.shapes:
            if name in file_of:
                pair = f"{file_of[name].name} and {file.path.name} of {file.path.parent}"
                raise ValueError(f"{pair} both hold {name}; move the one away that is not meant")
            file_of[name] = file.path


def _file(path: Path) -> File:
    n_bytes = _header_bytes(path)
    # shapes come from the file's header: no weights are read yet
    with _opened(path) as tensors:
        shapes = {name: tuple(x.get_shape()) for name, x in tensors.items()}
        dtypes = {name: x.get_dtype() for name, x in tensors.items()}
    # behind the library, which has found that the header is as the format wants it
    if name := _repeated_name(path, n_bytes):
        raise _damage(path, f"its header has {name!r:.60} twice")
    return File(path, shapes, partial(_opened, path), dtypes)


def _header_bytes(path: Path) -> int:
    """The length that the header of a safetensors file is said to have, in its first 8 bytes."""
    try:
        _check_file(path)
    except ValueError as error:
        raise _damage(path, error) from None
    with path.open("rb") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
    if n_bytes > MOST_JSON_BYTES:
        raise _damage(path, f"its header is said to have {n_bytes:,} bytes")
    return n_bytes


def _repeated_name(path: Path, n_bytes: int) -> str | None:
    """A name that the header has twice: readers of JSON keep one of them, and do not say so."""
    repeated: list[str] = []

    def noted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        # counted only where one is missing: a header has an object for every tensor
        if len(fields) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            repeated.extend(name for name, n in counts.items() if n > 1)
        return fields

    with path.open("rb") as file:
        file.seek(8)
        json.loads(file.read(n_bytes), object_pairs_hook=noted)
    return next(iter(repeated), None)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 — not a dict
    except (SafetensorError, OSError) as error:
        # This also catches errors while tensors are read: a file may end earlier than its header says.
        raise _damage(path, error) from error


def _damage(path: Path, what: object) -> ValueError:
    return ValueError(f"{path} is cut short or damaged ({what}); download it again")
