"""Rows that join, leave, are forced and share a prompt, against rows alone and against the full forward pass."""

import jax
import numpy as np
import pytest

from inference.generating import Limits, advance, extend, limits_of, prefill
from inference.rows import Written, admit, read
from inference.sample import Greedy, Sampler
from model.architectures.gpt2 import GPT2
from model.execution import Precision
from tests.examples import params_on
from tests.inference.test_decode import (
    FSDP_AND_TENSOR,
    ONE_DEVICE,
    PROMPTS,
    built,
    decoded,
    full_forward,
    greedy_by_full_forward,
    params_of,
    under,
)

SAMPLER, KEY = Sampler(temperature=2.0), 7
ROOM = {"context": 48, "max_tokens": 12, "cache_tokens": 64}


def unlimited() -> Limits:
    return limits_of(built(), params_of(built()), stop_ids=(), allowed_V=None)


def on(rows, until, sampler=SAMPLER):
    key = jax.random.key(KEY)
    return advance(
        built(), params_of(built()), rows, unlimited(), sampler=sampler, key=key, until=until
    )


def alone(prompt: list[int], index: int) -> list[int]:
    with jax.set_mesh(under(ONE_DEVICE)):
        rows = prefill(built(), params_of(built()), [prompt], indices=[index], **ROOM)
        return read(on(rows, 12), 1)[0].tokens


@pytest.mark.parametrize("mesh", [ONE_DEVICE, FSDP_AND_TENSOR], ids=str)
def test_rows_that_join_and_leave_a_running_batch_write_what_they_write_alone(mesh):
    with jax.set_mesh(under(mesh)):
        params = params_of(built())
        running = on(
            prefill(built(), params, PROMPTS[:2], **ROOM), [3, 5] + [0] * (2 if mesh else 0)
        )
        assert [len(row.tokens) for row in read(running, 2)] == [3, 5]
        left = read(running, 2)[1].tokens
        joining = prefill(built(), params, [PROMPTS[2]], indices=[2], **ROOM)
        running = on(admit(running, joining, [1]), 7)
        assert read(running, 2)[0].tokens == alone_of(0)[:7]
        joining = prefill(built(), params, [PROMPTS[3]], indices=[3], **ROOM)
        last = read(on(admit(running, joining, [0]), 12), 2)
    assert left == alone_of(1)[:5]
    assert [row.tokens for row in last] == [alone_of(3), alone_of(2)]


def alone_of(i: int) -> list[int]:
    return alone(PROMPTS[i], i)


def test_a_row_that_is_longer_than_the_batch_cannot_join():
    with jax.set_mesh(under(ONE_DEVICE)):
        params = params_of(built())
        running = prefill(built(), params, PROMPTS[:2], **ROOM)
        with pytest.raises(ValueError, match="give prefill the same max_tokens and cache_tokens"):
            admit(running, prefill(built(), params, [[1]], context=48, max_tokens=40), [0])
        with pytest.raises(ValueError, match="must be at most 1, each below 2"):
            admit(running, prefill(built(), params, [[1]], **ROOM), [2])
        with pytest.raises(ValueError, match="cache_tokens=20 must be at least 32"):
            prefill(built(), params, [[1]], context=48, max_tokens=12, cache_tokens=20)


def logp_by_full_forward(prompt: list[int], tokens: list[int]) -> np.ndarray:
    padded = np.zeros((1, 48), np.int32)
    padded[0, : len(prompt) + len(tokens)] = [*prompt, *tokens]
    logp_LV = jax.nn.log_softmax(full_forward(built(), params_of(built()), padded)[0])
    return np.array([logp_LV[len(prompt) - 1 + i, token] for i, token in enumerate(tokens)])


@pytest.mark.parametrize("mesh", [ONE_DEVICE, FSDP_AND_TENSOR], ids=str)
def test_forced_tokens_enter_the_text_and_every_token_has_the_models_own_log_probability(mesh):
    forced = [[3, 9, 27], [], [4]]
    prompts = PROMPTS[:3]
    with jax.set_mesh(under(mesh)):
        rows = on(prefill(built(), params_of(built()), prompts, **ROOM), 4, Greedy())
        rows = extend(built(), params_of(built()), rows, forced)
        written = read(on(rows, 9, Greedy()), 3)
    for row, more, prompt in zip(written, forced, prompts, strict=True):
        n = 4 + len(more)
        assert row.tokens[4:n] == more and len(row.tokens) == 9
        assert row.chosen == [True] * 4 + [False] * len(more) + [True] * (9 - n)
        start = greedy_by_full_forward(prompt, kv_heads=2, max_tokens=4)
        end = greedy_by_full_forward([*prompt, *start, *more], kv_heads=2, max_tokens=9 - n)
        assert row.tokens == [*start, *more, *end]
        with jax.set_mesh(under(ONE_DEVICE)):
            np.testing.assert_allclose(
                row.logp, logp_by_full_forward(prompt, row.tokens), atol=2e-5
            )


def test_log_probabilities_are_those_before_temperature_filters_and_forbidden_ids():
    allowed_V = np.arange(64) % 2 == 0
    sampler = Sampler(temperature=3.0, top_k=5)
    with jax.set_mesh(under(ONE_DEVICE)):
        params = params_of(built())
        limits = limits_of(built(), params, stop_ids=(), allowed_V=allowed_V)
        rows = prefill(built(), params, PROMPTS[:1], **ROOM)
        rows = advance(
            built(), params, rows, limits, sampler=sampler, key=jax.random.key(0), until=6
        )
        (row,) = read(rows, 1)
        np.testing.assert_allclose(
            row.logp, logp_by_full_forward(PROMPTS[0], row.tokens), atol=2e-5
        )
    assert all(token % 2 == 0 for token in row.tokens)


def test_a_row_that_ended_goes_on_behind_what_is_forced_and_its_room_ends_it():
    stop = greedy_by_full_forward(PROMPTS[0], kv_heads=2, max_tokens=3)[2]
    with jax.set_mesh(under(ONE_DEVICE)):
        params = params_of(built())
        limits = limits_of(built(), params, stop_ids=(stop,), allowed_V=None)
        rows = prefill(built(), params, PROMPTS[:1], **ROOM)
        how = {"sampler": Greedy(), "key": jax.random.key(0), "until": 12}
        ended = advance(built(), params, rows, limits, **how)
        n = len(read(ended, 1)[0].tokens)
        assert read(ended, 1)[0].tokens[-1] == stop and n <= 3
        (row,) = read(extend(built(), params, ended, [[stop, 5]]), 1)
        assert row.tokens[n:] == [stop, 5]
        rows = extend(
            built(), params, prefill(built(), params, PROMPTS[:1], **ROOM), [list(range(1, 15))]
        )
        assert read(rows, 1)[0].tokens == list(range(1, 13)) and bool(rows.finished_B[0])


@pytest.mark.parametrize("mesh", [ONE_DEVICE, FSDP_AND_TENSOR], ids=str)
def test_samples_that_share_a_prompt_are_those_of_the_prompt_given_several_times(mesh):
    given = [prompt for prompt in PROMPTS[:2] for _ in range(3)]
    shared = decoded(PROMPTS[:2], mesh=mesh, samples=3, sampler=SAMPLER)
    assert shared == decoded(given, mesh=mesh, sampler=SAMPLER)
    assert len({tuple(row) for row in shared}) == 6


def test_what_was_not_written_has_no_tokens():
    with jax.set_mesh(under(ONE_DEVICE)):
        rows = prefill(built(), params_of(built()), PROMPTS[:2], **ROOM)
        assert (
            read(extend(built(), params_of(built()), rows, [[], []]), 2)
            == [Written([], [], [])] * 2
        )
    with pytest.raises(ValueError, match="samples=0 must be at least 1"):
        decoded(PROMPTS, samples=0)
    assert decoded([], samples=2) == []


def test_padding_behind_the_last_learned_position_does_not_reach_a_row():
    sizes = GPT2(vocab_size=64, width=32, layers=2, heads=4, feed_forward_width=48, context=20)
    model = sizes.build(Precision(compute="float32"))
    prompt = list(range(1, 19))  # padded to 32 positions, of which 20 have a vector
    with jax.set_mesh(under(ONE_DEVICE)):
        params = params_on(under(ONE_DEVICE), sizes)
        rows = prefill(model, params, [prompt], context=20, max_tokens=2)
        limits = limits_of(model, params, stop_ids=(), allowed_V=None)
        rows = advance(
            model, params, rows, limits, sampler=Greedy(), key=jax.random.key(0), until=2
        )
        (row,) = read(rows, 1)
        padded = np.array([[*prompt, *row.tokens]], np.int32)
        logp_LV = jax.nn.log_softmax(full_forward(model, params, padded)[0])
    expected = [logp_LV[17 + i, token] for i, token in enumerate(row.tokens)]
    np.testing.assert_allclose(row.logp, expected, atol=2e-5)
