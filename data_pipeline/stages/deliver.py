"""Stages 6 and 7: clean text → what the trainer reads, a tokenizer and token shards, and the account of it
all.
"""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.engine.runner import Engine
from data_pipeline.progress import Progress
from data_pipeline.shards.shards import Shards
from data_pipeline.stages.account import account_of
from data_pipeline.stages.chats import KINDS, counts_of, make_chats
from data_pipeline.stages.chats import write_tokens as write_chats
from data_pipeline.stages.docstring_chats import DocstringChats
from data_pipeline.stages.flow import Cleaned
from data_pipeline.stages.text import MODEL, SIDES, STAGES
from data_pipeline.stages.tokens import wanted, write_tokens
from data_pipeline.stages.vocabulary import make_tokenizer, measure


class Ordered(NamedTuple):
    """What tokens and shards depend on beside the text; the fields of `Prepare`."""

    tokenizer: Any
    tokenizer_weights: Mapping[str, float] | None
    chats: DocstringChats | None
    seed: int
    shard_records: int


class Delivered(NamedTuple):
    """What was written: the tokenizer's fingerprint, SIDE/NAME → content hash of its shards, and the
    account.
    """

    tokenizer: str
    contents: dict[str, str]
    results: dict[str, Any]


def deliver(
    cleaned: Cleaned, ordered: Ordered, folder: Path, *, engine: Engine, progress: Progress
) -> Delivered:
    """Write tokenizer.model and SIDE/NAME into `folder`; what is there already and still right stays.

    Raises:
        ValueError: the tokenizer cannot be made of this text.
    """
    stages, sources = folder / STAGES, list(cleaned.groups)
    with progress("  making the tokenizer"):
        tokenizer = make_tokenizer(
            ordered.tokenizer, cleaned.texts, ordered.tokenizer_weights, stages / "tokenizer", folder / MODEL
        )
    split = [
        [text for text in cleaned.texts if (text.side, text.source) == which]
        for which in product(SIDES, sources)
    ]
    made_with = {
        "fingerprint": tokenizer.fingerprint,
        "seed": ordered.seed,
        "shard_records": ordered.shard_records,
    }
    shards = [wanted(texts, folder, **made_with) for texts in split]
    with progress("  writing tokens", sum(len(each.texts) for each in shards), unit="parts") as advance:
        write_tokens(shards, engine=engine, advance=advance)
    counts: dict[str, dict[str, int]] = {}
    if ordered.chats is not None:
        with progress("  making chats"):
            made = make_chats(
                ordered.chats, cleaned.texts, cleaned.index, stages / "chats", seed=ordered.seed
            )
            write_chats(ordered.chats, made, folder, tokenizer, shard_records=ordered.shard_records)
            counts = counts_of(made)
    names = (*sources, *(KINDS if counts else ()))
    manifests = {
        f"{side}/{name}": Shards(folder / side / name).manifest for side, name in product(SIDES, names)
    }
    results = account_of(cleaned, counts, manifests) | {"fertility": measure(tokenizer, cleaned.texts)}
    return Delivered(
        tokenizer.fingerprint,
        {name: manifest["content_hash"] for name, manifest in manifests.items()},
        results,
    )
