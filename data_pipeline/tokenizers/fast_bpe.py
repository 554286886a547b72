"""Corpora through gigatoken, at 20 MB/s a core and more, with the ids of the library that a BPE tokenizer
was made for, which has 1-5.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

# Letters encoded before gigatoken is opened, which takes longer than the other library needs for some prompts
FAST_FROM_CHARS = 1 << 18


class Encoder:
    """A function text → ids: `slow`, and after `FAST_FROM_CHARS` letters the fast one, when there is one.

    Args:
        slow: Text → ids, by the library that defines them.
        file: Makes the tokenizer.json of the same model, without pieces that text must not produce; None =
        there is none.
        probes: Texts on which both must agree.
    """

    def __init__(
        self,
        slow: Callable[[str], list[int]],
        file: Callable[[], dict[str, Any] | None],
        probes: Sequence[str],
    ):
        self._encode = slow
        self._file = file
        self._probes = probes
        self._n_chars = 0

    def __call__(self, text: str) -> list[int]:
        n_before = self._n_chars
        self._n_chars += len(text)
        # once, when the limit is passed: a file without a fast encoder is not asked again
        if n_before < FAST_FROM_CHARS <= self._n_chars:
            fast = fast_encoder(self._encode, self._file(), self._probes)
            self._encode = fast or self._encode
        return self._encode(text)


def fast_encoder(
    slow: Callable[[str], list[int]], file: dict[str, Any] | None, probes: Sequence[str]
) -> Callable[[str], list[int]] | None:
    """gigatoken's encoder of a tokenizer.json; None when it does not know this kind of model, or gives
    other ids than `slow` on a probe.
    """
    if file is None or file["model"].get("type") != "BPE":
        return None
    import gigatoken  # here, as most processes never encode that much

    try:
        fast = gigatoken.Tokenizer.from_json(json.dumps(file)).encode
    except (RuntimeError, ValueError):  # a normalizer or pre-tokenizer that it does not have
        return None
    if any(fast(probe).tolist() != slow(probe) for probe in probes):
        return None
    return lambda text: fast(text).tolist()
