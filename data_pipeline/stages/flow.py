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
from data_pipeline.stages.dropped import drop_reports, reports_in, require_all
from data_pipeline.stages.ingest import Ingested, ingest
from data_pipeline.stages.select import select
from data_pipeline.stages.separate import separate
from data_pipeline.stages.text import STAGES, Text


class CleanSettings(NamedTuple):
    """What clean text depends on; the fields of `Prepare`."""

    sources: Mapping[str, Any]
    recipe: tuple[Rule, ...]
    held_out_frac: float
    held_out_filter: HeldOutFilter
    seed: int
    limit_mib: float | None


class Cleaned(NamedTuple):
    """Clean text, and the account of what was dropped.

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


def clean(settings: CleanSettings, folder: Path, *, engine: Engine, progress: Progress) -> Cleaned:
    """Bring the stages of `folder` up to what is asked for; each does only what was not done before.

    Raises:
        ValueError: a source gives nothing, cannot be split, or has nothing left on one side.
    """
    stages = folder / STAGES
    sources = dict(settings.sources)
    names = list(sources)
    with progress("  reading", unit="parts") as advance:
        read = ingest(
            sources,
            stages / "ingest",
            work=stages / "work",
            limit_mib=settings.limit_mib,
            engine=engine,
            advance=advance,
        )

    # groups are set aside before any document is looked at: no rule may see which side it is on
    groups = _groups(read, names)
    set_aside = split_groups(groups, frac=settings.held_out_frac, seed=settings.seed)
    # A part of which all was dropped still counts in the reports, but has no signals.
    with_documents = [part for part in read if part.n_documents]
    judgement, selected = judge_parts(
        with_documents, settings, set_aside, stages, engine=engine, progress=progress
    )

    # said before the sides are compared, which takes long
    texts = [text for _, sides in selected for text in sides]
    reports = [*drop_reports(read), *reports_in(target for target, _ in selected)]
    require_all(texts, reports, names, settings.held_out_frac)
    with progress("  keeping the sides apart", unit="parts") as advance:
        separated = separate(
            texts, settings.held_out_filter, stages / "separate", engine=engine, advance=advance
        )

    # once more: cutting what is on both sides may have left nothing
    reports += reports_in(separated.reports)
    require_all(separated.texts, reports, names, settings.held_out_frac)

    # only the groups of the user's own sources, in their order
    held_out = {source: [name for name in of if name in set_aside] for source, of in groups.items()}
    return Cleaned(read, held_out, judgement, separated.texts, reports, separated.index)


def _groups(read: list[Ingested], sources: list[str]) -> dict[str, list[str]]:
    """Source → the groups of its documents, sorted."""
    groups: dict[str, set[str]] = {source: set() for source in sources}
    for part in read:
        groups[part.source].update(part.groups)
    return {source: sorted(names) for source, names in groups.items()}


def judge_parts(
    read: list[Ingested],
    settings: CleanSettings,
    set_aside: frozenset[str],
    stages: Path,
    *,
    engine: Engine,
    progress: Progress,
) -> tuple[Judgement, list[tuple[Path, list[Text]]]]:
    """Stages 2 to 5 for parts that have documents.

    Returns:
        What they are judged by, and of each part the folder of its report and the text of its sides.
    """
    recipe = settings.recipe

    # every document alone
    with progress("  measuring", len(read), unit="parts") as advance:
        annotated = annotate(read, recipe, stages / "annotate", engine=engine, advance=advance)
    parts = numbered(annotated)

    # what needs all of them
    with progress("  comparing", unit="rules") as advance:
        judgement = find(
            parts, recipe, set_aside, stages / "across", engine=engine, advance=advance
        )

    # every document again, now that all verdicts are known
    with progress("  selecting", len(parts), unit="parts") as advance:
        selected = select(parts, judgement, stages / "select", engine=engine, advance=advance)
    return judgement, selected


def misplaced(recipe: tuple[Rule, ...]) -> Iterator[str]:
    """A sentence for each rule across documents that is followed by one that rewrites: what it finds is cut
    out of the text it compared.
    """
    for number, rule in enumerate(recipe):
        if not isinstance(rule, AcrossRule):
            continue

        # Of the rules after it, those that rewrite a source which it has compared.
        rewriting = []
        for later, other in enumerate(recipe[number + 1 :], number + 1):
            if other.EDITS and set(other.sources) & set(rule.sources):
                rewriting.append(later)
        if rewriting:
            yield f"recipe.{rewriting[-1]} rewrites text that recipe.{number} has compared; put it before"


def keys_of(read: list[Ingested]) -> dict[str, list[str]]:
    """Source → keys of its parts, by which `append` tells what is new."""
    keys: dict[str, list[str]] = {}
    for part in read:
        keys.setdefault(part.source, []).append(part.folder.name)
    return keys
