"""Tiny things that tests of several rooms share: a model, meshes, packed batches, shard folders. Sizes
differ from one another.
"""

from collections.abc import Sequence as Many
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipeline.batch import PreferenceBatch, TokenBatch
from data_pipeline.shards.record import Record, Sequence
from data_pipeline.shards.shards import write_shards
from model.api import Model, Params
from model.architectures.llama import Llama
from model.execution import Precision
from model.mesh import make_mesh
from model.sharding import letters_of, named
from trainer.objectives.dpo import ReferencedPairs

SIZES = Llama(
    vocab_size=40,
    width=16,
    layers=3,
    heads=4,
    kv_heads=2,
    head_width=6,
    feed_forward_width=24,
    context=32,
)
ONE_DEVICE: dict[str, int] = {}
MESHES = ({"fsdp": 8}, {"fsdp": 4, "tensor": 2}, {"data": 2, "fsdp": 2, "tensor": 2})


def under(sizes: dict[str, int]) -> jax.sharding.Mesh:
    """A mesh over all 8 devices, or over the first one where no sizes are given."""
    return make_mesh(jax.devices() if sizes else jax.devices()[:1], **sizes)


@cache
def built(sizes: Llama = SIZES) -> Model:
    """The model in float32."""
    return sizes.build(Precision(compute="float32"))


# most of a test's time would be compiling, and tiny programs need no optimising
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@cache
def host_params(sizes: Llama = SIZES, seed: int = 0) -> Params:
    """Parameters as numpy arrays, not drawn by `init`; norm scales are not all 1, so that a scale left out
    would show.
    """
    with jax.set_mesh(under(ONE_DEVICE)):
        shapes = jax.eval_shape(built(sizes).init, jax.random.key(0))
    rng = np.random.default_rng(seed)

    def drawn(path: Any, leaf: Any) -> np.ndarray:
        x = (
            rng.uniform(0.5, 1.5, leaf.shape)
            if path[-1].key.startswith("scale")
            else rng.normal(0, sizes.width**-0.5, leaf.shape)
        )
        return x.astype(leaf.dtype)

    return jax.tree.map_with_path(drawn, shapes)


def at_rest_on(mesh: jax.sharding.Mesh, params: Params) -> Params:
    """Host parameters laid out by their names."""
    return jax.tree.map_with_path(
        lambda path, x: jax.device_put(
            x, named(mesh, letters_of(path[-1].key), x.shape, at_rest=True)
        ),
        params,
    )


def params_on(mesh: jax.sharding.Mesh, sizes: Llama = SIZES, seed: int = 0) -> Params:
    """`host_params` at rest on a mesh."""
    return at_rest_on(mesh, host_params(sizes, seed))


def batch_on(mesh: jax.sharding.Mesh, batch: Any) -> Any:
    """A batch of host arrays laid out by its field names."""
    return type(batch)(
        *(
            jax.device_put(x, named(mesh, letters_of(name)))
            for name, x in zip(batch._fields, batch, strict=True)
        )
    )


def token_batch(rows: Many[Many[Many[int]]], *, L: int, weights: Any = None) -> TokenBatch:
    """Rows of documents (lists of tokens), n tokens of which fill n - 1 positions; `weights` [B, L] or 1
    for every target.
    """
    names = ("tokens", "targets", "weight", "positions", "segments")
    out = {
        name: np.zeros((len(rows), L), np.float32 if name == "weight" else np.int32)
        for name in names
    }
    for b, documents in enumerate(rows):
        at = 0
        for segment, document in enumerate(documents, 1):
            n = len(document) - 1
            out["tokens"][b, at : at + n], out["targets"][b, at : at + n] = (
                document[:-1],
                document[1:],
            )
            out["positions"][b, at : at + n], out["segments"][b, at : at + n] = range(n), segment
            out["weight"][b, at : at + n] = 1
            at += n
    if weights is not None:
        out["weight"] *= np.asarray(weights, np.float32)
    return TokenBatch(*out.values(), source_BL=np.zeros((len(rows), L), np.int32))


def random_documents(
    rng: np.random.Generator, lengths: Many[int], vocab_size: int = SIZES.vocab_size
) -> list[list[int]]:
    """Documents of `lengths` tokens."""
    return [rng.integers(1, vocab_size, n).tolist() for n in lengths]


def random_tokens(*, B: int = 8, L: int = 10, seed: int = 0) -> TokenBatch:
    """Rows of one to three documents with some padding and some targets of weight 0; the number of targets
    differs by row.
    """
    rng = np.random.default_rng(seed)
    lengths = [(4, 5), (L + 1,), (3, 3, 4), (L - 2,), (2, 2), (6, 4), (5,), (3, 7)]
    rows = [random_documents(rng, lengths[b % len(lengths)]) for b in range(B)]
    return token_batch(rows, L=L, weights=rng.random((B, L)) < np.linspace(0.3, 1, B)[:, None])


def preference_batch(
    rows: Many[Many[tuple[list[int], list[int], int]]], *, L: int, P: int
) -> PreferenceBatch:
    """Rows of pairs (chosen, rejected, length of the prompt that both begin with)."""
    tokens = token_batch(
        [[side for chosen, rejected, _ in pairs for side in (chosen, rejected)] for pairs in rows],
        L=L,
    )
    prompt_BL = np.zeros((len(rows), L), np.int32)
    pair_weight_BP = np.zeros((len(rows), P), np.float32)
    for b, pairs in enumerate(rows):
        pair_weight_BP[b, : len(pairs)] = 1
        for p, (_, _, n_prompt) in enumerate(pairs):
            prompt_BL[b][
                (tokens.segments_BL[b] == 2 * p + 1) | (tokens.segments_BL[b] == 2 * p + 2)
            ] = n_prompt
    weight_BL = tokens.weight_BL * (
        tokens.positions_BL + 1 >= prompt_BL
    )  # the target of position i is token i + 1
    return PreferenceBatch(*tokens[:2], weight_BL, *tokens[3:5], pair_weight_BP)


def with_reference(batch: PreferenceBatch, reference: Any) -> ReferencedPairs:
    """The pairs with log-probabilities of a reference, [chosen or rejected, B, P]."""
    return ReferencedPairs(*batch, *np.asarray(reference, np.float32))


def random_pairs(*, B: int = 8, L: int = 24, P: int = 3, seed: int = 0) -> PreferenceBatch:
    """Rows of one to P pairs; the free slots have weight 0."""
    rng = np.random.default_rng(seed)

    def pair() -> tuple[list[int], list[int], int]:
        prompt, chosen, rejected = random_documents(
            rng, (2, int(rng.integers(1, 4)), int(rng.integers(1, 4)))
        )
        return prompt + chosen, prompt + rejected, 2

    rows = [[pair() for _ in range(1 + b % P)] for b in range(B)]
    return preference_batch(rows, L=L, P=P)


def referenced_pairs(*, B: int = 8, L: int = 24, P: int = 3, seed: int = 0) -> ReferencedPairs:
    """The same with a reference drawn at random."""
    reference = np.random.default_rng(seed).normal(-9, 2, (2, B, P))
    return with_reference(random_pairs(B=B, L=L, P=P, seed=seed), reference)


def write_documents(folder: Path, documents: Many[Many[int]], *, first_target: int = 1) -> Path:
    """A shard folder of documents `0`, `1`, …; tokens before `first_target` are no targets."""
    records = [
        Record(
            str(i),
            (
                Sequence(
                    np.array(tokens, np.int32),
                    (np.arange(len(tokens)) >= first_target).astype(np.uint8),
                ),
            ),
        )
        for i, tokens in enumerate(documents)
    ]
    write_shards(folder, records, source=folder.name, n_bytes=1, shard_records=5, lineage={})
    return folder


def write_pairs(folder: Path, pairs: Many[tuple[list[int], list[int], int]]) -> Path:
    """A shard folder of pairs (chosen, rejected, length of the prompt)."""
    records = []
    for i, (chosen, rejected, n_prompt) in enumerate(pairs):
        sides = [
            Sequence(np.array(side, np.int32), (np.arange(len(side)) >= n_prompt).astype(np.uint8))
            for side in (chosen, rejected)
        ]
        records.append(Record(str(i), tuple(sides)))
    write_shards(folder, records, source=folder.name, n_bytes=1, shard_records=5, lineage={})
    return folder
