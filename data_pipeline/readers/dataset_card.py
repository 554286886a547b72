"""A Hugging Face dataset card: the YAML at the top of README.md, which says where the files of each split
lie.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)


def patterns(card: str, *, config: str, split: str, field: str) -> list[str] | None:
    """Patterns of the paths of a split's files; None when the card does not say.

    Args:
        card: README.md.
        config: Of the dataset; "" = its default or only one.
        split: Its name.
        field: The reader's, for errors.

    Raises:
        ValueError: There is no such config, or the card cannot be understood.
    """
    front_matter = FRONT_MATTER.match(card)
    try:
        header = yaml.safe_load(front_matter[1]) if front_matter else None
        configs = header.get("configs") if isinstance(header, dict) else None
        files = {entry["config_name"]: entry.get("data_files", ()) for entry in configs or ()}
        if not files:
            return None
        # As the hub does: the only config, else the one called `default`.
        name = config or (next(iter(files)) if len(files) == 1 else "default")
        if name in files:
            return list(_paths(files[name], split))
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        problem = " ".join(str(error).split())
        raise ValueError(
            f"{field}: README.md cannot be understood ({type(error).__name__}: {problem}); mend its YAML"
        ) from error
    raise ValueError(f"{field}.config={config!r} must be one of {', '.join(files)}")


def _paths(data_files: Any, split: str) -> Iterator[str]:
    """A string, a list of strings, or a list of {split, path}, where path is a string or a list of them."""
    # A pattern without a split is training data, as on the hub.
    for entry in data_files if isinstance(data_files, list) else [data_files]:
        if isinstance(entry, str) and split == "train":
            yield entry
        elif isinstance(entry, dict) and entry["split"] == split:
            yield from entry["path"] if isinstance(entry["path"], list) else [entry["path"]]
