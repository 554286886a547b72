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
from data_pipeline.stages.tokens import shards_to_write, write_tokens
from data_pipeline.stages.vocabulary import make_tokenizer, measure


class TokenSettings(NamedTuple):
    """What tokens and shards depend on beside the text; the fields of `Prepare`."""

    tokenizer: Any
    tokenizer_weights: Mapping[str, float] | None
    chats: DocstringChats | None
    seed: int
    shard_records: int


class Delivered(NamedTuple):
    """What was written.

    Attributes:
        tokenizer: Its fingerprint.
        contents: SIDE/NAME → content hash of its shards.
        results: The account.
    """

    tokenizer: str
    contents: dict[str, str]
    results: dict[str, Any]


def deliver(
    cleaned: Cleaned, settings: TokenSettings, folder: Path, *, engine: Engine, progress: Progress
) -> Delivered:
    """Write tokenizer.model and SIDE/NAME into `folder`; what is there already and still right stays.

    Raises:
        ValueError: the tokenizer cannot be made of this text.
    """
    stages = folder / STAGES
    sources = list(cleaned.groups)

    # The tokenizer comes first, because all that follows is written in its tokens.
    with progress("  making the tokenizer"):
        tokenizer = make_tokenizer(
            settings.tokenizer,
            cleaned.texts,
            settings.tokenizer_weights,
            stages / "tokenizer",
            folder / MODEL,
        )

    # Both sides of every source; `require_all` has checked that none is empty.
    shards = []
    for side, source in product(SIDES, sources):
        texts = [text for text in cleaned.texts if (text.side, text.source) == (side, source)]
        shards.append(
            shards_to_write(
                texts,
                folder,
                fingerprint=tokenizer.fingerprint,
                seed=settings.seed,
                shard_records=settings.shard_records,
            )
        )
    n_parts = sum(len(each.texts) for each in shards)
    with progress("  writing tokens", n_parts, unit="parts") as advance:
        write_tokens(shards, engine=engine, advance=advance)

    # From the clean text, because questions need the source code.
    chats = settings.chats
    counts: dict[str, dict[str, int]] = {}
    if chats is not None:
        with progress("  making chats"):
            made = make_chats(
                chats, cleaned.texts, cleaned.index, stages / "chats", seed=settings.seed
            )
            write_chats(chats, made, folder, tokenizer, shard_records=settings.shard_records)
            counts = counts_of(made)

    # The account is of what is on the disk.
    names = (*sources, *(KINDS if counts else ()))

    # Opened as Shards, which checks that nothing is missing.
    manifests = {
        f"{side}/{name}": Shards(folder / side / name).manifest
        for side, name in product(SIDES, names)
    }
    results = account_of(cleaned, counts, manifests) | {
        "fertility": measure(tokenizer, cleaned.texts)
    }
    contents = {name: manifest["content_hash"] for name, manifest in manifests.items()}
    return Delivered(tokenizer.fingerprint, contents, results)
