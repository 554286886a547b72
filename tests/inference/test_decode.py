"""Decoding with a cache against the full forward pass; rows against themselves alone; meshes against one
device.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inference.decode import generate, stream
from inference.sample import Greedy, Sampler
from model.api import Model, ModelInputs, Params
from model.architectures.llama import Llama
from model.execution import Precision
from model.mesh import make_mesh
from model.sharding import einsum

SIZES = Llama(
    vocab_size=64,
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=8,
    feed_forward_width=48,
    context=48,
)
PROMPTS = [
    [2, 5, 7],
    [9],
    [4, 4, 8, 1, 60, 3, 22, 31, 17, 5, 2, 12, 11, 40, 41, 33, 50, 6, 19],
    [30, 2],
]
ONE_DEVICE, FSDP_AND_TENSOR = {}, {"fsdp": 4, "tensor": 2}


@cache
def built(kv_heads: int = 2) -> Model:
    return SIZES.model_copy(update={"kv_heads": kv_heads}).build(Precision(compute="float32"))


def under(mesh: dict[str, int]) -> jax.sharding.Mesh:
    return make_mesh(jax.devices() if mesh else jax.devices()[:1], **mesh)


def params_of(model: Model) -> Params:
    """Ten times the usual output weights: far from uniform, so that no token wins by rounding."""
    params = jax.jit(model.init)(jax.random.key(0))
    return {**params, "unembed_DV": params["unembed_DV"] * 10}


def decoded(
    prompts: list[list[int]], *, mesh: dict = ONE_DEVICE, kv_heads: int = 2, **options
) -> list[list[int]]:
    defaults = {
        "sampler": Greedy(),
        "context": 48,
        "max_tokens": 12,
        "stop_ids": (),
        "key": jax.random.key(7),
    }
    with jax.set_mesh(under(mesh)):
        return generate(
            built(kv_heads), params_of(built(kv_heads)), prompts, **{**defaults, **options}
        )


@partial(jax.jit, static_argnames="model")
def full_forward(model: Model, params: Params, tokens_BL: jax.Array) -> jax.Array:
    positions_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
    hidden_BLD = model.apply(
        params, ModelInputs(tokens_BL, positions_BL, jnp.ones_like(tokens_BL))
    ).hidden_BLD
    return einsum("BLD,DV->BLV", hidden_BLD, model.unembed(params), dtype=jnp.float32)[
        ..., : model.vocab_size
    ]


def greedy_by_full_forward(prompt: list[int], *, kv_heads: int, max_tokens: int) -> list[int]:
    with jax.set_mesh(under(ONE_DEVICE)):
        model, tokens = built(kv_heads), list(prompt)
        params = params_of(model)
        for _ in range(max_tokens):
            padded = np.zeros(
                (1, SIZES.context), np.int32
            )  # causal: what stands behind cannot be seen
            padded[0, : len(tokens)] = tokens
            tokens.append(int(jnp.argmax(full_forward(model, params, padded)[0, len(tokens) - 1])))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_greedy_is_the_full_forward_pass_token_by_token(kv_heads):
    news = decoded(PROMPTS, kv_heads=kv_heads)
    assert news == [
        greedy_by_full_forward(prompt, kv_heads=kv_heads, max_tokens=12) for prompt in PROMPTS
    ]
    assert len({tuple(new) for new in news}) == len(PROMPTS)


@pytest.mark.parametrize("sampler", [Greedy(), Sampler(temperature=1.5, top_k=40, top_p=0.98)])
def test_a_mesh_decodes_what_one_device_decodes(sampler):
    assert decoded(PROMPTS, mesh=FSDP_AND_TENSOR, sampler=sampler) == decoded(
        PROMPTS, sampler=sampler
    )


def test_a_prompt_in_a_ragged_batch_gives_what_it_gives_alone():
    assert decoded(PROMPTS) == [decoded([prompt])[0] for prompt in PROMPTS]


def test_a_sampled_row_does_not_depend_on_its_neighbours():
    sampler = Sampler(temperature=2.0)
    rows = decoded([[5, 6], [7, 8], [9]], sampler=sampler)
    others = decoded([[5, 6], *PROMPTS[2:]], sampler=sampler, max_tokens=9)
    assert others[0] == rows[0][:9]


def test_equal_prompts_in_one_batch_are_sampled_independently_and_repeatably():
    rows = decoded([[5, 6]] * 4, sampler=Sampler(temperature=2.0))
    assert len({tuple(row) for row in rows}) == 4
    assert decoded([[5, 6]] * 4, sampler=Sampler(temperature=2.0)) == rows
    assert decoded([[5, 6]] * 4, sampler=Sampler(temperature=2.0), key=jax.random.key(8)) != rows


def test_the_first_sampled_token_follows_the_softmax_of_the_full_forward_pass():
    n, prompt = 1000, [2, 5, 7]
    tokens = [
        row[0] for row in decoded([prompt] * n, sampler=Sampler(temperature=4.0), max_tokens=1)
    ]
    with jax.set_mesh(under(ONE_DEVICE)):
        logits_V = full_forward(built(), params_of(built()), jnp.array([prompt]))[0, -1]
    observed_V = np.bincount(tokens, minlength=SIZES.vocab_size) / n
    np.testing.assert_allclose(
        observed_V, jax.nn.softmax(logits_V / 4.0), atol=5 * (0.25 / n) ** 0.5
    )


def test_a_row_ends_with_its_first_stop_id_and_the_others_go_on():
    free = decoded(PROMPTS)
    stop = free[0][4]
    expected = [row[: row.index(stop) + 1] if stop in row else row for row in free]
    assert decoded(PROMPTS, stop_ids=(stop, 63)) == expected
    assert len(expected[0]) <= 5 < max(map(len, expected))


def test_a_row_ends_where_the_context_ends():
    rows = decoded(PROMPTS, context=20)
    assert [len(row) for row in rows] == [12, 12, 1, 12]
    assert rows[2] == decoded(PROMPTS)[2][:1]


@pytest.mark.parametrize("stride", [1, 5, 12])
def test_streamed_pieces_join_to_what_generate_gives(stride):
    with jax.set_mesh(under(ONE_DEVICE)):
        options = {
            "sampler": Greedy(),
            "context": 48,
            "max_tokens": 12,
            "stop_ids": (decoded(PROMPTS)[0][4],),
            "key": jax.random.key(7),
        }
        pieces = list(stream(built(), params_of(built()), PROMPTS, stride=stride, **options))
    joined = [sum(row, []) for row in zip(*pieces, strict=True)]
    assert joined == decoded(PROMPTS, stop_ids=options["stop_ids"])
    assert all(len(new) <= stride for piece in pieces for new in piece)


def test_an_id_that_is_not_allowed_never_comes():
    allowed_V = np.ones(SIZES.vocab_size, bool)
    allowed_V[decoded(PROMPTS)[0]] = False
    for sampler in (Greedy(), Sampler(temperature=5.0)):
        rows = decoded(PROMPTS, allowed_V=allowed_V, sampler=sampler)
        assert all(allowed_V[token] for row in rows for token in row)


def test_ids_beyond_the_mask_pad_the_vocabulary_and_never_come():
    rows = decoded(PROMPTS, allowed_V=np.ones(20, bool), sampler=Sampler(temperature=5.0))
    assert {token for row in rows for token in row} <= set(range(20))


def test_no_prompts_give_no_rows():
    assert decoded([]) == []


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[1], list(range(48))], {}, "prompt 1 has 48 tokens, and context=48 leaves no room"),
        ([[]], {}, "prompt 0 is empty"),
        ([[1]], {"max_tokens": 0}, "max_tokens=0 must be at least 1"),
    ],
)
def test_what_cannot_be_decoded_is_refused(prompts, options, message):
    with pytest.raises(ValueError, match=message):
        decoded(prompts, **options)
