"""Where the token shards of a run are, and the tokenizer they were made with."""

import os
from pathlib import Path

from data_pipeline.shards.shards import MANIFEST, Shards
from data_pipeline.tokenizers.tokenizer import Tokenizer

# Folders of a run that hold many files and no shards; stages holds the text they were made from.
NOT_SEARCHED = {"stages", "checkpoints"}
N_ABOVE = 3  # folders above shards that may hold their tokenizer: DATA/train/web


def shard_folders(path: Path) -> list[Path]:
    """`path`, when it is a folder of shards, else all such folders below it, those of the training side
    first.

    Raises:
        FileNotFoundError: there are none.
    """
    with_shards = []
    for folder, names, files in os.walk(path):
        # os.walk enters only what is left in `names`.
        names[:] = [name for name in names if name not in NOT_SEARCHED and not name.startswith(".")]
        if MANIFEST in files:
            with_shards.append(Path(folder))
            names.clear()  # folders inside are further segments of the same shards
    if not with_shards:
        remedy = "give a run, its data folder or a folder such as runs/tiny/data/train/web"
        raise FileNotFoundError(f"{path} holds no token shards; {remedy}")

    # False sorts before True: train comes first, then held_out.
    return sorted(with_shards, key=lambda folder: (folder.parent.name != "train", folder))


def label(folder: Path, path: Path) -> str:
    """What to call a folder found below `path`."""
    # relative_to gives "." for the path itself, which says nothing.
    return str(folder.relative_to(path)) if folder != path else str(folder)


def tokenizer_of(shards: Shards, file: Path | None = None) -> Tokenizer:
    """The tokenizer that shards were made with: `file`, or the one above them.

    Raises:
        ValueError: `file` is another tokenizer, or none is found.
    """
    if file:
        candidates = [file]
    else:
        above = shards.folder.resolve().parents[:N_ABOVE]
        beside = [folder / "tokenizer.model" for folder in above]
        candidates = [path for path in beside if path.exists()]
    # Old shards have no fingerprint of their tokenizer; then any is accepted.
    wanted = shards.manifest["lineage"].get("tokenizer")
    for tokenizer in map(Tokenizer, candidates):
        if wanted in (None, tokenizer.fingerprint):
            return tokenizer
    where = f"{file} is not" if file else "no folder above has"
    digest = f"SHA-256 {wanted or 'not noted'}"
    raise ValueError(
        f"{shards.folder}: {where} the tokenizer it was made with ({digest}); name it by --tokenizer"
    )
