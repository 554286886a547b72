"""A tokenizer.json from anywhere is opened in a child process first: a regular expression without end, a
library that aborts or a file that takes all memory ends that child alone.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from data_pipeline.readers.worker import kept_worker
from data_pipeline.tokenizers.tokenizer_json import Unusable, opened

HANDLER = "data_pipeline.tokenizers.hugging_face:try_out"
OPEN_LIMIT_S = 10.0  # processor seconds; the largest vocabularies take two
# Cutting a few texts into words takes a hundredth of that, and shows most expressions without end.
SPLIT_LIMIT_S = 1.0
# What a regular expression that goes back without end is slow on: long runs of what it repeats.
LONG_UNITS = ("a", "A", "aA", "a ", " ", "\n", "0", ".", "é", "中")
LONG = 2000
MAX_UNITS = 99  # letters of the file's own expressions that are repeated beside these
NAME_ANOTHER = "take another tokenizer.json"


def check_in_child(spec: Mapping[str, Any], name: str) -> None:
    """Open and try a tokenizer with names, as `HuggingFaceTokenizer` writes it.

    Raises:
        ValueError: it cannot be read, or not within the limits on time and memory. Unusable: it can be read,
        and does not keep texts.
    """
    # The cheap trial first: a vocabulary of 30 MB takes longer to open than a bomb needs to show itself.
    for spec_or_file, limit_s, what in (
        (_without_vocabulary(spec["tokenizer"]), SPLIT_LIMIT_S, "to cut a few texts into words"),
        (spec, OPEN_LIMIT_S, "to read or to encode a few texts"),
    ):
        request = json.dumps([spec_or_file, name]).encode()
        (answer,) = kept_worker(HANDLER).run([request], timeout_s=limit_s)
        if answer.error:
            raise _refusal(answer.error, name, f"takes more than {limit_s:.0f} s {what}")


def long_texts(file: Mapping[str, Any]) -> Iterator[str]:
    """Runs of letters, among them those that the file's own expressions name."""
    written = json.dumps([file.get("normalizer"), file.get("pre_tokenizer")], ensure_ascii=False)
    own = [letter for letter in dict.fromkeys(written) if letter.isprintable()]
    for unit in (*LONG_UNITS, *own[:MAX_UNITS]):
        yield unit * LONG + "!"  # an end that does not match, so that all ways are tried


def try_splitting(file: dict[str, Any], name: str) -> None:
    """Cut long texts into words.

    Raises:
        ValueError: the library cannot read the file.
    """
    library = opened(file, name)
    for text in long_texts(file):
        library.encode(text, add_special_tokens=False)


def _without_vocabulary(file: Mapping[str, Any]) -> dict[str, Any]:
    """What cuts a text into words, with a model of one word."""
    model = {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}
    kept = {key: file.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")}
    return {"version": "1.0", "added_tokens": [], **kept, "model": model}


def _refusal(error: str, name: str, too_slow: str) -> ValueError:
    """The sentence for what a child answered."""
    kind, _, words = error.partition(": ")
    if kind == "Unusable":
        return Unusable(words)
    # the sentences of our own checks
    if kind == "ValueError":
        return ValueError(words)
    reason = f"cannot be read as a tokenizer.json ({error:.200})"
    if error == "timeout":
        reason = too_slow
    if error == "crash":
        # the library gives up on an expression after millions of tries, and ends
        reason = "ends the library that reads it, as regular expressions without end do"
    if kind == "MemoryError":
        reason = "takes more memory than any tokenizer should"
    return ValueError(f"{name} {reason}; {NAME_ANOTHER}")
