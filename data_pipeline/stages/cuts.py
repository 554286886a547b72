"""What the rules across documents cut out of a document that stays."""

from typing import NamedTuple

import numpy as np

from data_pipeline.clean.canonical import without
from data_pipeline.clean.rule import AcrossRule
from data_pipeline.documents.document import Document
from data_pipeline.documents.drops import Drops
from data_pipeline.stages.across import Judgement, Numbered, columns, repeated


class Finding(NamedTuple):
    """What one rule across documents found in one document: rows of its table of verdicts."""

    rule: AcrossRule
    verdicts: dict[str, np.ndarray]


Findings = dict[int, list[Finding]]  # row of a document in its part → in the order of the rules


def findings_in(part: Numbered, judgement: Judgement) -> Findings:
    """What the rules across documents found in the documents of a part."""
    numbers_of = judgement.numbers(part)

    # verdicts name documents by number, a part has them by row
    rows = {int(document): row for row, document in enumerate(numbers_of)}
    findings: Findings = {}
    for number in judgement.found:
        if number not in part.annotated.rules:
            continue
        verdicts = columns(repeated(judgement.found[number], numbers_of))

        # verdicts are sorted by document: those of one document are a run
        documents, starts, sizes = np.unique(
            verdicts["document"], return_index=True, return_counts=True
        )
        for document, start, size in zip(documents, starts, sizes, strict=True):
            of_document = {name: values[start : start + size] for name, values in verdicts.items()}
            finding = Finding(judgement.recipe[number], of_document)
            findings.setdefault(rows[int(document)], []).append(finding)
    return findings


def cut(document: Document, findings: list[Finding], drops: Drops) -> Document | None:
    """The document without what the rules across documents cut out of it; None, counted, when nothing is
    left.
    """
    spans = []
    for rule, verdicts in findings:
        of_rule = rule.spans(document, verdicts)
        spans += of_rule
        if of_rule:
            drops.add(document.source, f"{rule.REASON}_spans", n=len(of_rule))
    if not spans:
        return document

    # all spans are of the text that was compared, so they are cut in one go
    text = without(document.text, sorted(spans))
    if not text.strip():
        drops.add(document.source, "empty", document.path)
        return None
    return document._replace(text=text)
