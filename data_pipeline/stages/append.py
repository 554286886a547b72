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
from data_pipeline.stages.flow import CleanSettings, judge_parts
from data_pipeline.stages.ingest import Ingested, ingest, stored
from data_pipeline.stages.new_documents import new_parts
from data_pipeline.stages.separate import separate
from data_pipeline.stages.text import HELD_OUT, STAGES, TRAIN, Text
from data_pipeline.stages.tokens import segment, write_tokens

# More groups than any corpus has, so that no held-out text counts as common and that side stays as it is.
NO_COMMON = 1 << 60


def new_text(
    settings: CleanSettings,
    folder: Path,
    known: Mapping[str, Sequence[str]],
    *,
    engine: Engine,
    progress: Progress,
) -> list[Text]:
    """The clean text to train on of what the sources have gained: judged among all, and apart from what was
    held out before.

    Args:
        settings: As of the finished corpus.
        folder: Of the finished corpus.
        known: Source → keys of the parts it was made of.
        engine: Who does the work.
        progress: Shown.
    """
    stages = folder / STAGES
    with progress("  reading", unit="parts") as advance:
        read = ingest(
            dict(settings.sources),
            stages / "ingest",
            work=stages / "work",
            # Without the limit: a new sample would not contain the same documents as the finished one.
            limit_mib=None,
            engine=engine,
            advance=advance,
        )
    old = _known_parts(stages / "ingest", known)
    new = new_parts(read, old)
    set_aside = read_json(folder / "held_out.json").values()
    held_out_groups = frozenset(name for names in set_aside for name in names)

    # Old parts come first, so that of equal documents that of the finished corpus stays.
    _, selected = judge_parts(
        [*old, *new], settings, held_out_groups, stages, engine=engine, progress=progress
    )
    added = [text for _, sides in selected[len(old) :] for text in sides if text.side == TRAIN]
    held_out_filter = settings.held_out_filter.model_copy(update={"common_groups": NO_COMMON})
    with progress("  keeping the sides apart", unit="parts") as advance:
        separated = separate(
            [*added, *_held_out(folder, known)],
            held_out_filter,
            stages / "separate",
            engine=engine,
            advance=advance,
        )
    return [text for text in separated.texts if text.side == TRAIN]


def _known_parts(folder: Path, known: Mapping[str, Sequence[str]]) -> list[Ingested]:
    folders = [(source, folder / source / key) for source, keys in known.items() for key in keys]
    for _, of_part in folders:
        _require(of_part, folder.parents[1])
    parts = [stored(source, of_part) for source, of_part in folders]
    # A part without documents has no files in the later stages.
    return [part for part in parts if part.n_documents]


def _held_out(folder: Path, known: Mapping[str, Sequence[str]]) -> list[Text]:
    """The held-out text that the shards were made of."""
    texts = []
    for source in known:
        for entry in corpus.entries(folder, HELD_OUT, source):
            path = folder / entry["file"]
            _require(path, folder)
            n_documents = sum(map(len, corpus.read_batches(path)))
            # 0 and path.parent: size and lineage do not matter, since it is only compared with.
            texts.append(Text(HELD_OUT, source, path, entry["sha256"], n_documents, 0, path.parent))
    return texts


def _require(path: Path, data: Path) -> None:
    """Raise ValueError if something that the finished corpus was made of is gone."""
    if not path.exists():
        done = data / "done.json"
        problem = f"{path} is missing or was damaged, and new text cannot be compared with it"
        remedy = f"restore it, or remove {done} and run the phase again, which makes it again"
        raise ValueError(f"{problem}; {remedy}")


def write_segments(
    texts: Sequence[Text], folder: Path, *, engine: Engine, progress: Progress, **made_with: Any
) -> dict[str, int]:
    """Put the documents of each source behind its shards; source → how many."""
    by_source: dict[str, list[Text]] = {}
    for text in texts:
        if text.documents:
            by_source.setdefault(text.source, []).append(text)

    # A source without new documents gets no segment.
    segments = [segment(of_source, folder, **made_with) for of_source in by_source.values()]
    n_parts = sum(len(each.texts) for each in segments)
    with progress("  writing tokens", n_parts, unit="parts") as advance:
        write_tokens(segments, engine=engine, advance=advance)
    return {
        source: sum(text.documents for text in of_source) for source, of_source in by_source.items()
    }
