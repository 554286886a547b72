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

# stage → rules, each with its published thresholds and what has none
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
# GSM8K has 1,319 test questions of some 45 words.
N_QUESTIONS, QUESTION_WORDS = 2000, 40


def text_stages(taken: Sample, folder: Path) -> list[Stage]:
    """Stages behind their bounds; amounts are MB of text in UTF-8."""
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
            # Most rules refuse to remove too much of a corpus; here the corpus is chosen by size
            # alone.
            "max_removed_frac": 0.9,
        }
    }

    def split(documents: Sequence[Document]) -> None:
        for document in documents:
            # Splitting into words is the bound: every rule has to look at them.
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
    """Rules from their class names and fields."""
    known = components_in("data_pipeline.clean")
    return [known[name](sources=(source,), **fields) for name, fields in rules.items()]


def annotate(rules: Sequence[Rule], taken: Iterable[Document]) -> None:
    """What a task of the annotate stage computes."""
    layouts.cache_clear()  # rules share the word arrays of a batch; this stage must not find another one's
    for batch in corpus.batches(taken):
        for rule in rules:
            # A rule may add annotations that the next one reads, so the batch is passed on.
            batch, _ = rule.annotate(batch)


def questions(code: Sequence[Document], path: Path) -> dict[str, Any]:
    """A task of questions about as long as those of GSM8K, cut out of code; a few are in its documentation
    too.
    """
    words = (word for document in code for word in document.text.split())
    # iter(f, "") calls f until it returns "".
    runs = iter(
        lambda: " ".join(islice(words, QUESTION_WORDS)), ""
    )  # "" when the words are used up
    lines = [json.dumps({"question": text, "answer": "7"}) for text in islice(runs, N_QUESTIONS)]
    path.write_text("".join(f"{line}\n" for line in lines))
    return {
        "type": "Questions",
        "name": "bench",
        "path": str(path),
        "question": ["question"],
        "answer": "answer",
    }
