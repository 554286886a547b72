"""A checkpoint to read: its config, the shapes of its tensors, and its files, opened one after the other."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

INDEX = "model.safetensors.index.json"
# known only to be refused with a reason: reading a pickle can run any code
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class File(NamedTuple):
    """A file of tensors.

    Attributes:
        path: The file.
        shapes: Name → shape of the tensors in it.
        open: Makes a context with name → tensor; a value is read when a tensor is sliced.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    open: Callable[[], AbstractContextManager[Mapping[str, Any]]]


class Checkpoint(NamedTuple):
    """`config` is config.json, or what a GGUF file says in its place."""

    path: Path
    config: dict[str, Any]
    files: tuple[File, ...]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of the tensors of all files."""
        return {name: shape for file in self.files for name, shape in file.shapes.items()}


def open_folder(folder: Path) -> Checkpoint:
    """A folder with config.json and safetensors, one or many.

    Raises:
        ValueError: something is missing, or a file is cut short or damaged. Pickles (.bin, .pt) are never
        read.
    """
    # first: a folder without it is no checkpoint, whatever else is in it
    config = read_json(folder / "config.json")
    files = tuple(_file(path) for path in _paths(folder))
    return Checkpoint(folder, config, files)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: there is no such file, or no object in it.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        remedy = "name the folder of a Hugging Face checkpoint"
        raise ValueError(f"{path.parent} has no {path.name}; {remedy}") from None
    except ValueError as error:  # of JSON, and of bytes that are no UTF-8
        raise ValueError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object; download it again")
    return value


def _paths(folder: Path) -> list[Path]:
    """The safetensors of a folder: those that its index lists, else all."""
    # an index may list fewer files than there are: some folders hold a second copy in another layout
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
    names = set(read_json(folder / INDEX).get("weight_map", {}).values())
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing or not names:
        listed = ", ".join(missing) or "no file"
        remedy = "download the checkpoint again"
        raise ValueError(f"{folder / INDEX} lists {listed}, not in the folder; {remedy}")
    return [folder / name for name in sorted(names)]


def _file(path: Path) -> File:
    # a slice has its shape from the header of the file: no weights are read yet
    with _opened(path) as tensors:
        shapes = {name: tuple(x.get_shape()) for name, x in tensors.items()}
    return File(path, shapes, partial(_opened, path))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 — it is no dict
    except (SafetensorError, OSError) as error:
        # raised also while a tensor is read: a file may end before its header says
        raise ValueError(f"{path} is cut short or damaged ({error}); download it again") from error
