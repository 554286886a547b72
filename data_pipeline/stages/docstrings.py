"""True question-answer pairs from source code: what a function is for, answered by its own docstring; and
plausible wrong answers.
"""

import ast
import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from data_pipeline.clean.overlap import HeldOutIndex, shingles_of
from data_pipeline.clean.spans import (
    STRUCTURE,
    Definition,
    definitions,
    paragraphs,
    parse,
    words_of,
)
from data_pipeline.documents.document import Document

# below, a docstring names its function again; above, it is a manual page
MIN_WORDS, MAX_WORDS = 4, 60
MAX_SIGNATURE_CHARS = 160  # longer ones are shown as `name(...)`
NEAREST = 5  # a wrong answer is one of the five nearest in length, so that length tells nothing
MAX_ALIKE = 0.5  # Jaccard of words above which a "wrong" answer may well be right
TEMPLATES = (
    "What does `{signature}` in the Python module `{module}` do?",
    "In the module `{module}`, what is `{signature}` for?",
    "Explain `{signature}` from `{module}`.",
    "Write the docstring of `{signature}`, defined in `{module}`.",
    "Module: {module}\nDefinition: {signature}\nDescribe it in a sentence or two.",
    "I am reading `{module}` and found `{signature}`. What does it do?",
)
Row = dict[str, str]  # {"role", "content"}, as corpora hold messages


class Docstring(NamedTuple):
    """A definition and the first paragraph of its docstring, on one line."""

    module: str  # dotted: json.decoder
    name: str  # qualified: JSONDecoder.decode
    signature: str  # as written, with the qualified name: JSONDecoder.decode(self, s)
    text: str


class Preference(NamedTuple):
    """One question with its true answer and a wrong one."""

    messages: list[Row]
    chosen: str
    rejected: str


def pairs_from_code(
    documents: Iterable[Document], *, index: HeldOutIndex | None = None
) -> list[Docstring]:
    """The documented functions, methods and classes of Python files, in the order of the files; 4 to 60
    words, each answer once.

    Args:
        documents: Code of one side of the held-out split; their paths are the module names.
        index: Of the held-out side, for training pairs: a docstring that repeats a held-out text is left out.
    """
    pairs: list[Docstring] = []
    seen_answers: set[tuple[str, ...]] = set()
    seen_names: set[tuple[str, str]] = set()
    for document in documents:
        for pair in docstrings_in(document):
            answer = words_of(pair.text)
            # a property and its setter have one name, an overload the docstring of another
            name = (pair.module, pair.name)
            if answer in seen_answers or name in seen_names:
                continue
            if index is not None and index.matches(pair.text):
                continue
            seen_answers.add(answer)
            seen_names.add(name)
            pairs.append(pair)
    return pairs


def docstrings_in(document: Document) -> Iterator[Docstring]:
    """Those of one file; nothing from a file that is not Python."""
    tree = parse(document.text) if document.path.endswith(".py") else None
    for name, node in definitions(tree.body) if tree else ():
        text = first_paragraph(ast.get_docstring(node) or "")
        # A function inside a function cannot be asked about by its module and name.
        if text and "<locals>" not in name:
            yield Docstring(module_of(document.path), name, signature_of(name, node), text)


def first_paragraph(docstring: str) -> str:
    """The docstring's first paragraph on one line; empty when it is too short, too long or no prose (a
    signature, an example).
    """
    first = next(iter(paragraphs(docstring)), "").strip()
    text = " ".join(first.split())
    if not MIN_WORDS <= len(text.split()) <= MAX_WORDS or ">>>" in text:
        return ""
    if STRUCTURE.fullmatch(first.split("\n")[0]):  # "class Page", "Return value:" and the like
        return ""

    # "(a, b) -> c" has four words by its spaces, and none that is one
    return text if len(words_of(text)) >= MIN_WORDS else ""


def module_of(path: str) -> str:
    """`json/decoder.py` → `json.decoder`, `json/__init__.py` → `json`."""
    parts = PurePosixPath(path).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]  # a package is named after its folder
    return ".".join(parts)


def signature_of(name: str, node: Definition) -> str:
    """The definition's head in one line, with its qualified name."""
    if isinstance(node, ast.ClassDef):
        head = f"class {name}"
        bases = ", ".join(map(ast.unparse, node.bases))
        tail = f"({bases})" if bases else ""
    else:
        head = f"async {name}" if isinstance(node, ast.AsyncFunctionDef) else name
        tail = f"({ast.unparse(node.args)})"
        if node.returns:
            tail += f" -> {ast.unparse(node.returns)}"
    # A question of many lines would teach signatures, not what the function does.
    if len(head + tail) > MAX_SIGNATURE_CHARS:
        tail = "(...)"
    return head + tail


def question(pair: Docstring, *, seed: int) -> Row:
    """The user's message about the definition, in one of six wordings."""
    template = TEMPLATES[keyed(seed, "template", pair) % len(TEMPLATES)]
    return {
        "role": "user",
        "content": template.format(module=pair.module, signature=pair.signature),
    }


def questions(pairs: Iterable[Docstring], *, seed: int) -> list[list[Row]]:
    """A chat of two messages a pair: the question and the docstring."""
    return [
        [question(pair, seed=seed), {"role": "assistant", "content": pair.text}] for pair in pairs
    ]


def preferences(pairs: Iterable[Docstring], *, seed: int) -> list[Preference]:
    """A true and a wrong answer a pair; the wrong one is the docstring of another definition of the module,
    of nearly the same length.

    Pairs whose module has no other docstring that is clearly different are left out.
    """
    by_module: dict[str, list[Docstring]] = defaultdict(list)
    for pair in pairs:
        by_module[pair.module].append(pair)
    made = []
    for members in by_module.values():
        for pair in members:
            rejected = wrong_answer(pair, members, seed)
            if rejected is not None:
                made.append(Preference([question(pair, seed=seed)], pair.text, rejected))
    return made


def wrong_answer(pair: Docstring, others: list[Docstring], seed: int) -> str | None:
    """One of the `NEAREST` docstrings nearest in length that say something else; None when there is none."""
    # by name where lengths tie: the order of files must not choose
    by_length = sorted(
        others, key=lambda other: (abs(len(other.text) - len(pair.text)), other.name)
    )
    different: list[str] = []
    for other in by_length:
        if not alike(pair.text, other.text):
            different.append(other.text)
        if len(different) == NEAREST:
            break
    # Not always the nearest: one docstring would be the wrong answer to many questions.
    return different[keyed(seed, "rejected", pair) % len(different)] if different else None


def alike(one: str, other: str) -> bool:
    """Whether two docstrings may mean the same: half of their words, or of their 3-word shingles, in
    common.
    """
    a, b = words_of(one), words_of(other)

    # shingles tell short texts apart that share their small words
    return (
        _overlap(set(a), set(b)) > MAX_ALIKE or _overlap(shingles_of(a), shingles_of(b)) > MAX_ALIKE
    )


def _overlap(one: Collection, other: Collection) -> float:
    """Jaccard similarity; 0 of two empty sets."""
    union = set(one) | set(other)
    return len(set(one) & set(other)) / len(union) if union else 0.0


def keyed(seed: int, purpose: str, pair: Docstring) -> int:
    """A number that depends on the seed, the purpose and the definition alone."""
    return int.from_bytes(
        hashlib.sha256(f"{purpose}/{seed}/{pair.module}/{pair.name}".encode()).digest()[:8]
    )
