"""Where the token shards of a run are, and the tokenizer they were made with."""

import os
from pathlib import Path

from data_pipeline.shards.shards import MANIFEST, Shards
from data_pipeline.tokenizers.tokenizer import Tokenizer

NOT_SEARCHED = {
    "stages",
    "checkpoints",
}  # of a run: what the shards were made from, and what was made with them
N_ABOVE = 3  # folders above shards that may hold their tokenizer: DATA/train/web


def shard_folders(path: Path) -> list[Path]:
    """`path`, when it is a folder of shards, else all such folders below it, those of the training side
    first.

    Raises:
        FileNotFoundError: there are none.
    """
    found = []
    for folder, names, files in os.walk(path):
        names[:] = [name for name in names if name not in NOT_SEARCHED and not name.startswith(".")]
        if MANIFEST in files:
            found.append(Path(folder))
            names.clear()  # further segments belong to the source
    if not found:
        raise FileNotFoundError(
            f"{path} holds no token shards; give a run, its data folder or a folder such as runs/tiny/data/train/web"
        )
    return sorted(found, key=lambda folder: (folder.parent.name != "train", folder))


def label(folder: Path, path: Path) -> str:
    """What to call a folder found below `path`."""
    return str(folder.relative_to(path)) if folder != path else str(folder)


def tokenizer_of(shards: Shards, file: Path | None = None) -> Tokenizer:
    """The tokenizer that shards were made with: `file`, or the one above them.

    Raises:
        ValueError: it is another one, or there is none.
    """
    above = shards.folder.resolve().parents[:N_ABOVE]
    files = (
        [file]
        if file
        else [folder / "tokenizer.model" for folder in above if (folder / "tokenizer.model").exists()]
    )
    wanted = shards.manifest["lineage"].get("tokenizer")
    for tokenizer in map(Tokenizer, files):
        if wanted in (None, tokenizer.fingerprint):
            return tokenizer
    where = f"{file} is not" if file else "no folder above has"
    raise ValueError(
        f"{shards.folder}: {where} the tokenizer it was made with (SHA-256 {wanted or 'not noted'}); name it by --tokenizer"
    )
