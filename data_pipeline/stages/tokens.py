"""Stage 7: clean text → token shards. A document's shard and its place there depend on its id and the seed
alone.
"""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline import settings
from data_pipeline.engine.runner import Engine
from data_pipeline.engine.shuffle import by_key
from data_pipeline.files import read_json, replace_folder
from data_pipeline.shards.segment import MANIFEST, SEGMENTS
from data_pipeline.shards.shards import VERSION as SHARDS_VERSION
from data_pipeline.shards.shards import finish_shards, next_segment
from data_pipeline.stages.encode import Encoding, encode
from data_pipeline.stages.proof import damage_of_shards
from data_pipeline.stages.shard import SHARDS, described, sizes_of, write_rows
from data_pipeline.stages.text import MODEL, STAGES, Text

VERSION = 1  # of what this stage makes of the same texts and tokenizer


class ShardsToWrite(NamedTuple):
    """The shards of one source and side.

    Attributes:
        folder: Where they will be.
        work: A folder of their own until they are whole, named after all that they depend on.
        texts: Their documents.
        encoding: How these become records.
        lineage: What the manifest says of where they come from.
        after: Content hash of the source that they are appended to; "" = they are its first segment.
    """

    folder: Path
    work: Path
    texts: tuple[Text, ...]
    encoding: Encoding
    lineage: dict[str, Any]
    after: str = ""

    def tasks(self) -> list[tuple[Text, Path, Encoding]]:
        """Each text with the file of its tokens."""
        folder = self.work / "tokens"
        return [
            (text, folder / f"{i:06}.parquet", self.encoding) for i, text in enumerate(self.texts)
        ]

    def written_lineage(self) -> dict[str, Any]:
        """What the manifest holds: by `work` finished shards are known as just these."""
        return self.lineage | {"work": self.work.name}


def shards_to_write(
    texts: Sequence[Text], data: Path, *, fingerprint: str, seed: int, shard_records: int
) -> ShardsToWrite:
    """The shards of these texts, all of one source and side, in the folder `data`."""
    side, source = texts[0].side, texts[0].source
    n_documents = sum(text.documents for text in texts)
    n_shards = max(1, -(-n_documents // shard_records))  # rounded up

    # the raw files' hashes go along, so that a token can be traced back to them
    lineage = {
        "tokenizer": fingerprint,
        "seed": seed,
        "text": [_lineage(text, data) for text in texts],
    }
    made_by = [
        VERSION,
        SHARDS_VERSION,
        side,
        source,
        lineage,
        n_shards,
        settings.library_versions(),
    ]
    work = data / STAGES / "tokens" / settings.digest(made_by)
    encoding = Encoding(data / MODEL, seed, n_shards)
    return ShardsToWrite(data / side / source, work, tuple(texts), encoding, lineage)


def segment(texts: Sequence[Text], data: Path, **made_with: Any) -> ShardsToWrite:
    """The shards of these texts as one more segment behind those that their source has; or the one that an
    interrupted run has written.
    """
    wanted = shards_to_write(texts, data, **made_with)
    for manifest in wanted.folder.glob(f"{SEGMENTS}/*/{MANIFEST}"):
        # the same texts in another segment: an interrupted append that had come to its end
        written = wanted._replace(folder=manifest.parent)
        if is_written(written):
            if damage := damage_of_shards(manifest.parent):
                problem = f"{manifest.parent} is damaged ({damage})"
                raise ValueError(f"{problem}; delete that folder and append again")
            return written
    folder, after = next_segment(wanted.folder)
    return wanted._replace(folder=folder, after=after)


def write_tokens(
    shards: Sequence[ShardsToWrite], *, engine: Engine, advance: Callable[[], None]
) -> None:
    """Write documents (`<bos>` text `<eos>`) as shards; what an interrupted run had finished is used
    again.
    """
    missing = [each for each in shards if not is_written(each)]

    # of all sources together, so that no worker waits for the end of one
    tasks = []
    for each in missing:
        tasks += [
            (text, path, encoding) for text, path, encoding in each.tasks() if not path.exists()
        ]
    for _ in engine.map(encode, tasks):
        advance()
    for each in missing:
        _shuffle(each, engine)


def is_written(shards: ShardsToWrite) -> bool:
    """Whether just these shards were written before."""
    manifest = shards.folder / MANIFEST
    # The lineage names the texts, the tokenizer and the seed: equal lineages have equal bytes.
    return manifest.exists() and read_json(manifest)["lineage"] == shards.written_lineage()


def _shuffle(shards: ShardsToWrite, engine: Engine) -> None:
    """Bring the documents of each shard together and write it; then the folder takes its place."""
    written = shards.work / SHARDS
    if not (written / MANIFEST).exists():
        _gather(shards, written, engine)
    # A process killed before this may have left them, without which the shards are complete.
    for part in written.glob("[0-9]*.npy"):
        part.unlink()
    replace_folder(shards.folder, written)

    # Only now: a process killed before this must find its work again.
    shutil.rmtree(shards.work)


def _gather(shards: ShardsToWrite, written: Path, engine: Engine) -> None:
    """Write the shards of a source, but for those that were written before a kill, and their manifest."""
    encoded = [path for _, path, _ in shards.tasks()]

    # a shard that was written before a kill is not gathered again
    sizes = sizes_of(encoded)
    missing = {
        shard: size for shard, size in sizes.items() if not described(written, shard).exists()
    }
    for _ in by_key(engine, encoded, "shard", partial(write_rows, written), sizes=missing):
        pass
    finish_shards(
        written,
        [read_json(described(written, shard)) for shard in sorted(sizes)],
        source=shards.texts[0].source,
        n_bytes=sum(text.bytes for text in shards.texts),
        lineage=shards.written_lineage(),
        after=shards.after,
    )


def _lineage(text: Text, data: Path) -> dict[str, Any]:
    """Where a text comes from: its part, its file, and the raw files with their hashes."""
    report = read_json(text.lineage / "report.json")
    return {
        "part": report["part"],
        "file": text.path.relative_to(data).as_posix(),
        "sha256": text.sha256,
        "inputs": report["inputs"],
    }
