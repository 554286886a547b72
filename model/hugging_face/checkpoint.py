"""A Hugging Face checkpoint to read: its config, the shapes of its tensors, and its files."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

INDEX = "model.safetensors.index.json"
# Listed only to refuse them with a reason: unpickling can run any code.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class File(NamedTuple):
    """A file of tensors.

    Attributes:
        path: The file.
        shapes: Name → shape of the tensors in it.
        open: Makes a context that gives name → tensor; values are read when a tensor is sliced.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    open: Callable[[], AbstractContextManager[Mapping[str, Any]]]


class Checkpoint(NamedTuple):
    """A checkpoint; `config` is config.json, or the same fields from the metadata of a GGUF file."""

    path: Path
    config: dict[str, Any]
    files: tuple[File, ...]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of the tensors of all files."""
        return {name: shape for file in self.files for name, shape in file.shapes.items()}


def open_folder(folder: Path) -> Checkpoint:
    """Open a folder with config.json and one or more safetensors files.

    Raises:
        ValueError: something is missing, or a file is cut short or damaged. Pickles (.bin, .pt) are never
            read.
    """
    # config.json first: a folder without it is not a checkpoint, whatever else it holds
    config = read_json(folder / "config.json")
    files = tuple(_file(path) for path in _paths(folder))
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
    except ValueError as error:  # of the JSON, or of bytes that are not UTF-8
        raise ValueError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object; download it again")
    return value


def _paths(folder: Path) -> list[Path]:
    """The safetensors files of a folder: those in its index, or all if it has none."""
    # An index may list fewer files than there are: some folders hold a second copy in another layout.
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
    # shapes come from the file's header: no weights are read yet
    with _opened(path) as tensors:
        shapes = {name: tuple(x.get_shape()) for name, x in tensors.items()}
    return File(path, shapes, partial(_opened, path))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 — not a dict
    except (SafetensorError, OSError) as error:
        # This also catches errors while tensors are read: a file may end earlier than its header says.
        raise ValueError(f"{path} is cut short or damaged ({error}); download it again") from error
