"""New input of a finished corpus → one more segment of shards behind each source. Nothing that was written
changes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.documents import corpus
from data_pipeline.engine.runner import Engine
from data_pipeline.files import read_json
from data_pipeline.progress import Progress
from data_pipeline.stages.flow import Asked, judged
from data_pipeline.stages.ingest import ingest, stored
from data_pipeline.stages.new_documents import fresh
from data_pipeline.stages.separate import separate
from data_pipeline.stages.text import HELD_OUT, STAGES, TRAIN, Text
from data_pipeline.stages.tokens import segment, write_tokens

NO_COMMON = 1 << 60  # groups: the held-out side stays as it is


def new_text(
    asked: Asked, folder: Path, known: Mapping[str, Sequence[str]], *, engine: Engine, progress: Progress
) -> list[Text]:
    """The clean text to train on of what the sources have gained: judged among all, and apart from what was
    held out before.

    Args:
        asked: As of the finished corpus.
        folder: Of the finished corpus.
        known: Source → keys of the parts it was made of.
        engine: Who does the work.
        progress: Shown.
    """
    stages = folder / STAGES
    with progress("  reading", unit="parts") as advance:
        read = ingest(
            dict(asked.sources),
            stages / "ingest",
            work=stages / "work",
            limit_mib=None,
            engine=engine,
            advance=advance,
        )
    old = [stored(source, stages / "ingest" / source / key) for source, keys in known.items() for key in keys]
    old, new = [part for part in old if part.n_documents], fresh(read, old)
    set_aside = frozenset(name for names in read_json(folder / "held_out.json").values() for name in names)
    _, selected = judged([*old, *new], asked, set_aside, stages, engine=engine, progress=progress)
    added = [text for _, both in selected[len(old) :] for text in both if text.side == TRAIN]
    held_out_filter = asked.held_out_filter.model_copy(update={"common_groups": NO_COMMON})
    with progress("  keeping the sides apart", unit="parts") as advance:
        separated = separate(
            [*added, *_held_out(folder, known)],
            held_out_filter,
            stages / "separate",
            engine=engine,
            advance=advance,
        )
    return [text for text in separated.texts if text.side == TRAIN]


def _held_out(folder: Path, known: Mapping[str, Sequence[str]]) -> list[Text]:
    """The held-out text that the shards were made of."""
    found = []
    for source in known:
        for entry in corpus.entries(folder, HELD_OUT, source):
            path = folder / entry["file"]
            n_documents = sum(map(len, corpus.read_batches(path)))
            found.append(Text(HELD_OUT, source, path, entry["sha256"], n_documents, 0, path.parent))
    return found


def write_segments(
    texts: Sequence[Text], folder: Path, *, engine: Engine, progress: Progress, **made_with: Any
) -> dict[str, int]:
    """Put the documents of each source behind its shards; source → how many."""
    by_source: dict[str, list[Text]] = {}
    for text in texts:
        if text.documents:
            by_source.setdefault(text.source, []).append(text)
    segments = [segment(of_source, folder, **made_with) for of_source in by_source.values()]
    with progress("  writing tokens", sum(len(each.texts) for each in segments), unit="parts") as advance:
        write_tokens(segments, engine=engine, advance=advance)
    return {source: sum(text.documents for text in of_source) for source, of_source in by_source.items()}
