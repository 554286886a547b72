"""A Hugging Face checkpoint to read: its config, the shapes of its tensors, and its files."""

import contextlib
import json
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
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        remedy = "name the folder of a Hugging Face checkpoint"
        raise ValueError(f"{path.parent} has no {path.name}; {remedy}") from None
    # of the JSON, of bytes that are not UTF-8, or of brackets within brackets without end
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object; download it again")
    return value


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
        raise ValueError(f"{folder / INDEX} lists {listed}, not in the folder; {remedy}")
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
    # shapes come from the file's header: no weights are read yet
    with _opened(path) as tensors:
        shapes = {name: tuple(x.get_shape()) for name, x in tensors.items()}
        dtypes = {name: x.get_dtype() for name, x in tensors.items()}
    return File(path, shapes, partial(_opened, path), dtypes)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 — not a dict
    except (SafetensorError, OSError) as error:
        # This also catches errors while tensors are read: a file may end earlier than its header says.
        raise ValueError(f"{path} is cut short or damaged ({error}); download it again") from error
