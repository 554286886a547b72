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
from data_pipeline.shards.shards import MANIFEST, SEGMENTS, finish_shards, next_segment
from data_pipeline.shards.shards import VERSION as SHARDS_VERSION
from data_pipeline.stages.encode import Encoding, encode
from data_pipeline.stages.shard import described, sizes_of, write_rows
from data_pipeline.stages.text import MODEL, STAGES, Text

VERSION = 1  # of what this stage makes of the same texts and tokenizer


class Wanted(NamedTuple):
    """The shards of one source and side.

    Attributes:
        folder: Where they shall be.
        work: A folder of their own until they are whole, named after all that they depend on.
        texts: Their documents.
        encoding: How these become records.
        lineage: What the manifest says of where they come from.
        after: Content hash of the segment that they are put behind; "" = they are a source's first.
    """

    folder: Path
    work: Path
    texts: tuple[Text, ...]
    encoding: Encoding
    lineage: dict[str, Any]
    after: str = ""

    def encoded(self) -> list[tuple[Text, Path, Encoding]]:
        """The tasks: each text with the file of its tokens."""
        return [
            (text, self.work / "tokens" / f"{place:06}.parquet", self.encoding)
            for place, text in enumerate(self.texts)
        ]


def wanted(texts: Sequence[Text], data: Path, *, fingerprint: str, seed: int, shard_records: int) -> Wanted:
    """The shards of these texts, all of one source and side, in the folder `data`."""
    side, source = texts[0].side, texts[0].source
    encoding = Encoding(
        data / MODEL, seed, max(1, -(-sum(text.documents for text in texts) // shard_records))
    )
    lineage = {"tokenizer": fingerprint, "seed": seed, "text": [_lineage(text, data) for text in texts]}
    work = (
        data
        / STAGES
        / "tokens"
        / settings.digest(
            [VERSION, SHARDS_VERSION, side, source, lineage, encoding.n_shards, settings.library_versions()]
        )
    )
    return Wanted(data / side / source, work, tuple(texts), encoding, lineage)


def segment(texts: Sequence[Text], data: Path, **made_with: Any) -> Wanted:
    """The shards of these texts as one more segment behind those that their source has; or the one that an
    interrupted run has written.
    """
    first = wanted(texts, data, **made_with)
    written = [
        first._replace(folder=manifest.parent) for manifest in first.folder.glob(f"{SEGMENTS}/*/{MANIFEST}")
    ]
    folder, after = next_segment(first.folder)
    return next(filter(is_there, written), first._replace(folder=folder, after=after))


def write_tokens(shards: Sequence[Wanted], *, engine: Engine, advance: Callable[[], None]) -> None:
    """Write documents (`<bos>` text `<eos>`) as shards; what an interrupted run had finished is used
    again.
    """
    missing = [each for each in shards if not is_there(each)]
    tasks = [task for each in missing for task in each.encoded() if not task[1].exists()]
    for _ in engine.map(encode, tasks):
        advance()
    for each in missing:
        _shuffle(each, engine)


def is_there(shards: Wanted) -> bool:
    """Whether just these shards were written before."""
    manifest = shards.folder / MANIFEST
    return manifest.exists() and read_json(manifest)["lineage"] == shards.lineage | {"work": shards.work.name}


def _shuffle(shards: Wanted, engine: Engine) -> None:
    """Bring the documents of each shard together and write it; then the folder takes its place."""
    encoded, written = [path for _, path, _ in shards.encoded()], shards.work / "shards"
    sizes = sizes_of(encoded)
    missing = {shard: size for shard, size in sizes.items() if not described(written, shard).exists()}
    for _ in by_key(engine, encoded, "shard", partial(write_rows, written), sizes=missing):
        pass
    finish_shards(
        written,
        [read_json(described(written, shard)) for shard in sorted(sizes)],
        source=shards.texts[0].source,
        n_bytes=sum(text.bytes for text in shards.texts),
        lineage=shards.lineage | {"work": shards.work.name},
        after=shards.after,
    )
    replace_folder(shards.folder, written)
    shutil.rmtree(shards.work)


def _lineage(text: Text, data: Path) -> dict[str, Any]:
    report = read_json(text.lineage / "report.json")
    return {
        "part": report["part"],
        "file": text.path.relative_to(data).as_posix(),
        "sha256": text.sha256,
        "inputs": report["inputs"],
    }
