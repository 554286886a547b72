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
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class File(NamedTuple):
    """`shapes` of the tensors in it; `open()` is a context with their values, each read when it is sliced."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    open: Callable[[], AbstractContextManager[Mapping[str, Any]]]


class Checkpoint(NamedTuple):
    """`config` is config.json, or what stands for it."""

    path: Path
    config: dict[str, Any]
    files: tuple[File, ...]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all tensors."""
        return {name: shape for file in self.files for name, shape in file.shapes.items()}


def open_folder(folder: Path) -> Checkpoint:
    """A folder with config.json and safetensors, one or many.

    Raises:
        ValueError: something is missing, or a file is cut short or damaged. Pickles (.bin, .pt) are never
        read.
    """
    config = read_json(folder / "config.json")
    return Checkpoint(folder, config, tuple(map(_file, _paths(folder))))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: there is no such file, or no object in it.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(
            f"{path.parent} has no {path.name}; name the folder of a Hugging Face checkpoint"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object; download it again")
    return value


def _paths(folder: Path) -> list[Path]:
    if (folder / INDEX).exists():
        names = read_json(folder / INDEX).get("weight_map", {})
        missing = sorted({name for name in names.values() if not (folder / name).is_file()})
        if missing or not names:
            raise ValueError(
                f"{folder / INDEX} lists {', '.join(missing) or 'no file'}, not in the folder; download the checkpoint again"
            )
        return [folder / name for name in sorted(set(names.values()))]
    if found := sorted(folder.glob("*.safetensors")):
        return found
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ValueError(
            f"{folder} has only pickles ({pickles[0]}), which can run any code when they are read and are never opened here; "
            "convert them to safetensors, or take a checkpoint that has them"
        )
    raise ValueError(
        f"{folder} has no safetensors; name the folder of a Hugging Face checkpoint, or a .gguf file"
    )


def _file(path: Path) -> File:
    with _opened(path) as tensors:
        return File(path, {name: tuple(x.get_shape()) for name, x in tensors.items()}, partial(_opened, path))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 — it is no dict
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is cut short or damaged ({error}); download it again") from error
