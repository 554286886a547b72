"""What the rules across documents cut out of a document that stays."""

import numpy as np

from data_pipeline.clean.canonical import without
from data_pipeline.clean.rule import AcrossRule
from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops
from data_pipeline.stages.across import Judgement, Numbered, columns, repeated

Found = dict[
    int, list[tuple[AcrossRule, dict[str, np.ndarray]]]
]  # row of a document → rules across documents, with their verdicts on it


def found_in(part: Numbered, judgement: Judgement) -> Found:
    """What the rules across documents found in the documents of a part, by row."""
    numbers_of = judgement.numbers(part)
    rows = {int(document): row for row, document in enumerate(numbers_of)}
    found: Found = {}
    for number in (number for number in judgement.found if number in part.annotated.rules):
        verdicts = columns(repeated(judgement.found[number], numbers_of))
        documents, starts, sizes = np.unique(verdicts["document"], return_index=True, return_counts=True)
        for document, start, end in zip(documents, starts, starts + sizes, strict=True):
            mine = {name: values[start:end] for name, values in verdicts.items()}
            found.setdefault(rows[int(document)], []).append((judgement.recipe[number], mine))
    return found


def cut(
    document: Document, found: list[tuple[AcrossRule, dict[str, np.ndarray]]], drops: Drops
) -> Document | None:
    """The document without what the rules across documents cut out of it; None, counted, when nothing is
    left.
    """
    spans = []
    for rule, verdicts in found:
        of_rule = rule.spans(document, verdicts)
        spans += of_rule
        if of_rule:
            drops.add(document.source, f"{rule.REASON}_spans", n=len(of_rule))
    if not spans:
        return document
    text = without(document.text, sorted(spans))
    return (
        document._replace(text=text) if text.strip() else drops.add(document.source, "empty", document.path)
    )
