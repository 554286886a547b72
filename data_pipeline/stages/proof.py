"""Token shards compared with what was written, before a data phase that is not finished uses them again."""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_pipeline.files import DAMAGED, read_json, seal_beside, sha256, writing
from data_pipeline.shards.segment import MANIFEST
from data_pipeline.shards.shards import Shards
from data_pipeline.stages.shard import DESCRIBED, SHARDS, index_part
from data_pipeline.stages.text import SIDES, STAGES


def set_aside_damaged_shards(data: Path) -> Iterator[str]:
    """Rename finished shards of the folder `data` that are not what was written, so that they are made again;
    a sentence for each.
    """
    folders = [manifest.parent for side in SIDES for manifest in data.glob(f"{side}/*/{MANIFEST}")]
    for folder, why in _examined(folders, damage_of_shards):
        # Under stages: beside the others it would be taken for one more source.
        aside = data / STAGES / f"{folder.parent.name}-{folder.name}{DAMAGED}"
        yield _set_aside(folder, aside, why)


def set_aside_damaged_work(data: Path) -> Iterator[str]:
    """The same for the shards of sources that a killed process was still writing."""
    works = [work for work in data.glob(f"{STAGES}/tokens/*") if not work.name.endswith(DAMAGED)]
    # With a manifest all shards are written, and the parts of the index may be gone.
    finished = [work / SHARDS for work in works if (work / SHARDS / MANIFEST).exists()]
    for folder, why in _examined(finished, damage_of_shards):
        yield _set_aside(
            folder.parent, folder.parent.with_name(f"{folder.parent.name}{DAMAGED}"), why
        )
    descriptions = [
        path
        for work in works
        if not (work / SHARDS / MANIFEST).exists()
        for path in work.glob(f"{DESCRIBED}/[0-9]*.json")
    ]
    for path, why in _examined(descriptions, _damage_of_shard):
        shard = _file_of(path)
        # First, because with it the shard would be taken for whole.
        path.unlink()
        seal_beside(path).unlink(missing_ok=True)
        aside = data / STAGES / "tokens" / f"{path.parents[1].name}-{shard.name}{DAMAGED}"
        yield _set_aside(shard, aside, why)


def damage_of_shards(folder: Path) -> str | None:
    """What is wrong with a folder of shards, in words; None = it is what was written."""
    try:
        Shards(folder).verify()
    except (OSError, ValueError) as error:
        # Its first clause; the remedy behind it is what is done here.
        return str(error).partition(";")[0]
    return None


def _damage_of_shard(description: Path) -> str | None:
    """What is wrong with one shard of a source that was still being written."""
    written = read_json(description)
    shard = _file_of(description)
    # An earlier version wrote no hash of the index.
    digests = {shard: written["sha256"], index_part(shard): written.get("index_sha256")}
    for path, digest in digests.items():
        if not path.is_file():
            return f"{path.name} is missing"
        if sha256(path) != digest:
            return f"{path.name} has other contents"
    return None


def _file_of(description: Path) -> Path:
    return description.parents[1] / SHARDS / f"{description.stem}.arrayrecord"


def _examined(
    paths: list[Path], examine: Callable[[Path], str | None]
) -> Iterator[tuple[Path, str]]:
    """The paths that something is wrong with, and what."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # All cores: hashing releases the interpreter, and nothing else is at work yet.
        reasons = list(pool.map(examine, paths))
    return ((path, why) for path, why in zip(paths, reasons, strict=True) if why is not None)


def _set_aside(path: Path, aside: Path, why: str) -> str:
    kept = f"kept as {aside.name} and " if path.exists() else ""
    with writing(aside):
        if aside.is_dir():
            shutil.rmtree(aside)
        if path.exists():
            aside.parent.mkdir(parents=True, exist_ok=True)
            path.replace(aside)
    return f"{path} is damaged ({why}); it is {kept}made again"
