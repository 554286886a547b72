"""Stages 1 to 5 one after another: raw input → clean text on two sides that share nothing."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.clean.held_out import HeldOutFilter, split_groups
from data_pipeline.clean.overlap import HeldOutIndex
from data_pipeline.clean.rule import AcrossRule, Rule
from data_pipeline.engine.runner import Engine
from data_pipeline.progress import Progress
from data_pipeline.stages.across import Judgement, find, numbered
from data_pipeline.stages.annotate import annotate
from data_pipeline.stages.dropped import losses, reports_in, require_all
from data_pipeline.stages.ingest import Ingested, ingest
from data_pipeline.stages.select import select
from data_pipeline.stages.separate import separate
from data_pipeline.stages.text import STAGES, Text


class Asked(NamedTuple):
    """What clean text depends on; the fields of `Prepare`."""

    sources: Mapping[str, Any]
    recipe: tuple[Rule, ...]
    held_out_frac: float
    held_out_filter: HeldOutFilter
    seed: int
    limit_mib: float | None


class Cleaned(NamedTuple):
    """Clean text, and the account of what was not kept.

    Attributes:
        read: The parts as read.
        groups: Source → those set aside.
        judgement: What the documents were judged by.
        texts: Of both sides.
        reports: Of the stages, in the order of stages and parts.
        index: Tells whether a text is too close to a held-out one.
    """

    read: list[Ingested]
    groups: dict[str, list[str]]
    judgement: Judgement
    texts: list[Text]
    reports: list[dict[str, Any]]
    index: HeldOutIndex


def clean(asked: Asked, folder: Path, *, engine: Engine, progress: Progress) -> Cleaned:
    """Bring the stages of `folder` up to what is asked for; each does only what was not done before.

    Raises:
        ValueError: a source gives nothing, cannot be split, or has nothing left on one side.
    """
    folder = folder / STAGES
    with progress("  reading", unit="parts") as advance:
        sources = dict(asked.sources)
        read = ingest(
            sources,
            folder / "ingest",
            work=folder / "work",
            limit_mib=asked.limit_mib,
            engine=engine,
            advance=advance,
        )
    groups = {
        source: sorted({name for part in read if part.source == source for name in part.groups})
        for source in sources
    }
    set_aside = split_groups(groups, frac=asked.held_out_frac, seed=asked.seed)
    judgement, selected = judged(
        [part for part in read if part.n_documents],
        asked,
        set_aside,
        folder,
        engine=engine,
        progress=progress,
    )
    texts = [text for _, both in selected for text in both]
    reports = [*losses(read), *reports_in(target for target, _ in selected)]
    require_all(texts, reports, list(sources), asked.held_out_frac)
    with progress("  keeping the sides apart", unit="parts") as advance:
        separated = separate(
            texts, asked.held_out_filter, folder / "separate", engine=engine, advance=advance
        )
    reports += reports_in(separated.reports)
    require_all(separated.texts, reports, list(sources), asked.held_out_frac)
    named = {source: [name for name in names if name in set_aside] for source, names in groups.items()}
    return Cleaned(read, named, judgement, separated.texts, reports, separated.index)


def judged(
    read: list[Ingested],
    asked: Asked,
    set_aside: frozenset[str],
    stages: Path,
    *,
    engine: Engine,
    progress: Progress,
) -> tuple[Judgement, list[tuple[Path, list[Text]]]]:
    """Stages 2 to 5: what parts that have documents are judged by, and of each the folder of its report and
    the text of its sides.
    """
    with progress("  measuring", len(read), unit="parts") as advance:
        parts = numbered(annotate(read, asked.recipe, stages / "annotate", engine=engine, advance=advance))
    with progress("  comparing", unit="rules") as advance:
        judgement = find(parts, asked.recipe, set_aside, stages / "across", engine=engine, advance=advance)
    with progress("  selecting", len(parts), unit="parts") as advance:
        return judgement, select(parts, judgement, stages / "select", engine=engine, advance=advance)


def misplaced(recipe: tuple[Rule, ...]) -> Iterator[str]:
    """A sentence for each rule across documents that is followed by one that rewrites: what it finds is cut
    out of the text it compared.
    """
    for number, rule in enumerate(recipe):
        later = [
            k
            for k, other in enumerate(recipe)
            if k > number and other.EDITS and set(other.sources) & set(rule.sources)
        ]
        if isinstance(rule, AcrossRule) and later:
            yield f"recipe.{later[-1]} rewrites text that recipe.{number} has compared; put it before"


def keys_of(read: list[Ingested]) -> dict[str, list[str]]:
    """Source → keys of its parts, by which `append` tells what is new."""
    return {
        source: [part.folder.name for part in read if part.source == source]
        for source in {part.source: None for part in read}
    }
