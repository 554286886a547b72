"""Generate from prompts: all new tokens at once (`generate`), or a few at a time (`stream`)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Key

from inference.generating import SamplingRule, advance, limits_of, prefill
from inference.rows import on_host, repeat
from model.api import Model, Params


def generate(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    **options: Any,
) -> list[list[int]]:
    """All new tokens of each row; arguments and rows are those of `stream`."""
    rows: list[list[int]] = []
    # a stride of everything: the host waits only once, until all rows are finished
    for news in stream(model, params, prompts, max_tokens=max_tokens, stride=max_tokens, **options):
        # the first piece tells the number of rows: prompts times samples
        rows = rows or [[] for _ in news]
        for row, new in zip(rows, news, strict=True):
            row += new
    return rows


def stream(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    sampler: SamplingRule,
    context: int,
    max_tokens: int,
    stop_ids: Sequence[int],
    key: Key[Array, ""],
    allowed_V: np.ndarray | None = None,
    samples: int = 1,
    stride: int = 8,
) -> Iterator[list[list[int]]]:
    """Yields up to `stride` further tokens of every row until all are finished. The `samples` rows of a
    prompt are consecutive, and the prompt is read once for all of them.

    A row is finished when it has produced one of `stop_ids` (its last token), `max_tokens` tokens, or as many
    as fit with its prompt into `context`. Ids that are False in `allowed_V`, or beyond its end, are never
    chosen (see `what_ends` in inference/text.py); None allows all. Call under `jax.set_mesh`.

    Raises:
        ValueError: a prompt is empty or leaves no room in `context`, or a limit is not positive.
    """
    for name, value in {"max_tokens": max_tokens, "samples": samples, "stride": stride}.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    if not prompts:
        return
    # compiled programs depend on rounded lengths alone, so prompts of similar lengths share them
    rows = prefill(model, params, prompts, context=context, max_tokens=max_tokens)
    if samples > 1:
        rows = repeat(rows, n_prompts=len(prompts), samples=samples)
    limits = limits_of(model, params, stop_ids=stop_ids, allowed_V=allowed_V)
    n_rows = len(prompts) * samples
    n_yielded_B = np.zeros(n_rows, int)
    until = 0
    # the host waits once every `stride` tokens; in between the device runs a loop of its own
    while not np.all(on_host(rows.finished_B)):
        until = min(until + stride, max_tokens)
        rows = advance(model, params, rows, limits, sampler=sampler, key=key, until=until)
        # [:n_rows]: the rows after these only pad the batch to the mesh
        new_BL = on_host(rows.new_BL)[:n_rows]
        n_B = on_host(rows.n_B)[:n_rows]
        yield [
            new[start:end].tolist()
            for new, start, end in zip(new_BL, n_yielded_B, n_B, strict=True)
        ]
        n_yielded_B = n_B
