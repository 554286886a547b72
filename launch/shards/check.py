"""`meshwright data check`: does a finished corpus share text with an evaluation task that was not known
when it was made?
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from data_pipeline.clean.decontaminate import Decontaminate, recheck
from data_pipeline.component import one_of
from data_pipeline.shards.shards import Shards
from data_pipeline.tokenizers.tokenizer import Tokenizer
from launch.job.load import import_components
from launch.job.yaml import parse_yaml
from launch.shards.folders import label, shard_folders, tokenizer_of
from launch.shards.inspect import texts_of
from launch.terminal.console import Console

BATCH = 256  # documents read at a time
N_NAMED = 20  # documents


class TaskArgument(BaseModel, frozen=True, extra="forbid", strict=True):
    """The value of --task, which is validated like a field of a config."""

    task: one_of("data_pipeline.tasks")


class Hit(NamedTuple):
    """A run of words of a task (number `ngram`) that a document in a folder of shards has too."""

    folder: str
    document: str
    ngram: int


def check(args: argparse.Namespace) -> None:
    """Print the documents that share words with each task, or all of them as JSON.

    Raises:
        ValueError: there are any.
    """
    for module in args.imports:
        import_components(module)
    tasks = [task_of(text) for text in args.task]
    folders = {label(folder, args.path): Shards(folder) for folder in shard_folders(args.path)}

    # Before any document is read, so that a wrong --tokenizer is reported at once.
    tokenizers = {name: tokenizer_of(shards, args.tokenizer) for name, shards in folders.items()}
    rows = []
    record: dict[str, Any] = {}  # of --json, by task
    for task in tasks:
        all_hits = [
            hit
            for name, shards in folders.items()
            for hit in hits(name, shards, tokenizers[name], task)
        ]
        rare = without_common(all_hits)
        n_rare = n_documents(rare)
        n_common = n_documents(all_hits) - n_rare
        # Sorted, so that two runs print the same table.
        documents = sorted({(hit.folder, hit.document) for hit in rare})
        rows += [(task.name, *document) for document in documents]
        named = [{"shards": folder, "document": document} for folder, document in documents]
        record[task.name] = {"documents": named, "sharing_common_words": n_common}
        if not args.json:
            shared = f"{n_rare:,} documents share words with it, {n_common:,} common ones"
            print(f"{task.name}: {shared}", flush=True)
    if args.json:
        print(json.dumps({"tasks": record}), flush=True)
    if rows:
        if not args.json:
            heads = ("task", "shards", "document")
            Console().table("Contaminated", heads, rows[:N_NAMED], text_columns=3)
        remedy = "add the task to Decontaminate in the recipe and run the data phase again"
        # A document that shares words with two tasks has a row for each.
        n_contaminated = len({row[1:] for row in rows})
        names = ", ".join(dict.fromkeys(row[0] for row in rows))
        raise ValueError(
            f"{n_contaminated:,} documents of {args.path} share words with {names}; {remedy}"
        )


def task_of(text: str) -> Any:
    """The task that --task describes.

    Raises:
        ValueError: the text is not YAML, or describes no task.
    """
    try:
        return TaskArgument(task=parse_yaml(text, "--task")).task
    except ValidationError as error:
        sentences = []
        for detail in error.errors():
            # Without the first part, our field `task`, which the user did not type.
            where = ".".join(map(str, detail["loc"][1:])) or text
            rule = detail["msg"]
            sentences.append(f"--task {where}: {rule[0].lower()}{rule[1:]}")
        raise ValueError("; ".join(sentences)) from None


def hits(name: str, shards: Shards, tokenizer: Tokenizer, task: Any) -> Iterator[Hit]:
    """The hits of a task in all documents of a folder."""
    ids: list[str] = []

    def texts() -> Iterator[str]:
        # In batches, because the shards read many records at once faster than one by one.
        for first in range(0, len(shards), BATCH):
            for record in shards.__getitems__(range(first, min(first + BATCH, len(shards)))):
                ids.append(record.id)
                yield "\n".join(texts_of(record, tokenizer))

    for hit in recheck(texts(), task):
        yield Hit(name, ids[hit.text], hit.ngram)


def without_common(hits: Sequence[Hit]) -> list[Hit]:
    """The hits whose words are rare: words that more documents have than `Decontaminate` allows are common
    language and prove nothing.
    """
    documents: dict[int, set[tuple[str, str]]] = {}
    for hit in hits:
        documents.setdefault(hit.ngram, set()).add((hit.folder, hit.document))
    # The default limit of the recipe's rule, so that both agree on what is common.
    limit = Decontaminate.model_fields["max_documents"].default
    return [hit for hit in hits if len(documents[hit.ngram]) <= limit]


def n_documents(hits: Sequence[Hit]) -> int:
    """How many different documents have hits."""
    return len({(hit.folder, hit.document) for hit in hits})
