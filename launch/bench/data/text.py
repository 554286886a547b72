"""The stages from text to clean text and the keys that documents are compared by."""

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from data_pipeline.clean.recipe import code_recipe, web_recipe
from data_pipeline.clean.rule import Rule
from data_pipeline.clean.words import layouts
from data_pipeline.component import components_in
from data_pipeline.documents import corpus
from data_pipeline.documents.document import Document
from launch.bench.data.sample import Sample, Stage

# Stage → its rules. Only fields without a published value are given here; the others are defaults.
WEB_RULES: dict[str, dict[str, dict[str, Any]]] = {
    "normalise": {"Normalise": {"repair_mojibake": True}},
    "language": {"Language": {"languages": ("en",), "first_chars": 2_000}},
    "Gopher repetition": {"GopherRepetition": {}},
    "Gopher quality": {"GopherQuality": {}},
    "C4": {"C4Lines": {"min_line_words": 3}, "C4Page": {"min_sentences": 5}},
    "FineWeb": {"FineWeb": {}},
    "PII": {"Pii": {}},
    "toxicity": {"Toxicity": {"max_score": 0.5}},
    "exact keys": {"ExactDedup": {"max_removed_frac": 0.9}},
    "line keys": {
        "LineDedup": {"part": "line", "max_documents": 6, "min_words": 3, "max_removed_frac": 0.9}
    },
    "MinHash": {"NearDedup": {"max_removed_frac": 0.9}},
}
CODE_RULES: dict[str, dict[str, dict[str, Any]]] = {
    "code rules": {"CodeQuality": {}, "CodeKind": {}},
    "secrets": {"Secrets": {}},
}
# About the size of GSM8K: 1,319 test questions of some 45 words.
N_QUESTIONS, QUESTION_WORDS = 2000, 40


def text_stages(taken: Sample, folder: Path) -> list[Stage]:
    """Stages after their bounds; amounts are MB of text in UTF-8."""
    mb_web = mb_of(taken.web)
    mb_code = mb_of(taken.code)

    def web(name: str, rules: Sequence[Rule]) -> Stage:
        return Stage(name, mb_web, "MB of text", lambda: annotate(rules, taken.web), "split")

    def code(name: str, rules: Sequence[Rule]) -> Stage:
        return Stage(name, mb_code, "MB of code", lambda: annotate(rules, taken.code), "split code")

    tasks = {
        "Decontaminate": {
            "tasks": (questions(taken.code, folder / "questions.jsonl"),),
            "action": "drop",
            # High, because the rule stops at this share and a bench must not.
            "max_removed_frac": 0.9,
        }
    }

    def split(documents: Sequence[Document]) -> None:
        for document in documents:
            # The bound: every rule has to look at the words.
            document.text.split()

    return [
        Stage("split", mb_web, "MB of text", lambda: split(taken.web), note="str.split"),
        Stage("split code", mb_code, "MB of code", lambda: split(taken.code), note="str.split"),
        *(web(name, made(rules, "web")) for name, rules in WEB_RULES.items()),
        web("decontamination", made(tasks, "web")),
        *(code(name, made(rules, "code")) for name, rules in CODE_RULES.items()),
        web("the web recipe, whole", web_recipe(sources=("web",))),
        code("the code recipe, whole", code_recipe(sources=("code",))),
    ]


def mb_of(documents: Iterable[Document]) -> float:
    """Megabytes of their text in UTF-8."""
    return sum(len(document.text.encode()) for document in documents) / 1e6


def made(rules: dict[str, dict[str, Any]], source: str) -> list[Rule]:
    """Build rules from their class names and fields."""
    known = components_in("data_pipeline.clean")
    return [known[name](sources=(source,), **fields) for name, fields in rules.items()]


def annotate(rules: Sequence[Rule], taken: Iterable[Document]) -> None:
    """Compute what a task of the annotate stage computes."""
    # Rules share the word arrays of a batch, but a stage must not find those of the stage before it.
    layouts.cache_clear()
    for batch in corpus.batches(taken):
        for rule in rules:
            # A rule may rewrite the text, so the next one gets the new batch.
            batch, _ = rule.annotate(batch)


def questions(code: Sequence[Document], path: Path) -> dict[str, Any]:
    """A task of questions about as long as those of GSM8K, cut out of the code."""
    words = (word for document in code for word in document.text.split())
    # iter(f, "") calls f until it returns "", which is when the words are used up.
    runs = iter(lambda: " ".join(islice(words, QUESTION_WORDS)), "")
    lines = [json.dumps({"question": text, "answer": "7"}) for text in islice(runs, N_QUESTIONS)]
    path.write_text("".join(f"{line}\n" for line in lines))
    return {
        "type": "Questions",
        "name": "bench",
        "path": str(path),
        "question": ["question"],
        "answer": "answer",
    }
