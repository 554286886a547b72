"""Laws of moments in 8 bits: what codes keep, what they weigh, and that training does not notice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.adapt import Full
from model.architectures.llama import Llama
from model.execution import Precision
from tests.examples import ONE_DEVICE, batch_on, quick_jit, random_documents, token_batch, under
from tests.trainer.optimizer_examples import CONSTANT, normal
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.optimizers.adamw8bit import AdamW8bit
from trainer.optimizers.common.eight_bit import Blocks, blocks_of, quantized, restored
from trainer.schedules import WarmupCosine
from trainer.state import new_state
from trainer.step import make_step

SMALL = Llama(
    vocab_size=256,
    width=32,
    layers=2,
    heads=2,
    kv_heads=2,
    head_width=32,
    feed_forward_width=256,
    context=32,
)
RULES = {"peak_lr": 1e-2, "weight_decay": 0.1}


def there_and_back(x: np.ndarray, dtype, *, letters: str = "DF", blocks: Blocks) -> np.ndarray:
    with jax.set_mesh(under(ONE_DEVICE)):
        return np.asarray(
            restored(*quantized(jnp.array(x), letters, blocks, dtype), letters, blocks)
        )


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8])
def test_every_code_is_a_number_that_comes_back(dtype):
    """The codes of the table in the paper: 127 of each sign and 0, or 255 and 0."""
    last = 127 if dtype == jnp.int8 else 255
    codes = np.arange(-last if dtype == jnp.int8 else 1, last + 1).astype(dtype)[None]
    codes = np.where(codes == 0, 1, codes)  # 0 alone has no sign, and is tested below
    blocks = Blocks(1, 1, codes.size)
    with jax.set_mesh(under(ONE_DEVICE)):
        values = restored(jnp.array(codes), jnp.full((1, 1), 3.0), "DF", blocks)
        again, scale = quantized(values, "DF", blocks, dtype)
    assert float(scale[0, 0]) == 3.0 and np.array_equal(again, codes)
    assert np.all(np.diff(np.unique(values)) > 0) and len(np.unique(values)) == len(
        np.unique(codes)
    )
    assert float(jnp.abs(values).min()) == pytest.approx(
        3.0 * (1e-6 if dtype == jnp.int8 else 1e-7), rel=1e-5
    )


@pytest.mark.parametrize(("dtype", "top"), [(jnp.int8, 6), (jnp.uint8, 7)])
def test_the_error_is_a_share_of_the_decade_and_the_largest_of_a_block_is_exact(dtype, top):
    size = 10 ** np.random.default_rng(1).uniform(-5, 0, (8, 512)).astype(np.float32)
    x = size * np.sign(normal(8, 512)) if dtype == jnp.int8 else size
    found = there_and_back(x, dtype, blocks=Blocks(1, 8, 64))
    block, back = x.reshape(8, 8, 64), found.reshape(8, 8, 64)
    largest = np.abs(block).max(2, keepdims=True)
    decade = np.ceil(np.log10(np.abs(block) / largest))
    step = 0.9 / 2 ** (decade + top)  # of the decade's upper end, between two codes
    assert np.all(np.abs(back - block) <= 0.51 * step * 10**decade * largest)
    at = np.abs(block).argmax(2)[..., None]
    np.testing.assert_array_equal(np.take_along_axis(back, at, 2), np.take_along_axis(block, at, 2))


def test_a_second_moment_is_never_rounded_to_zero_and_zeros_stay_zeros():
    x = np.array([[1.0, 1e-12] + [1e-30] * 62, [0.0] * 64], np.float32)
    found = there_and_back(x, jnp.uint8, blocks=Blocks(1, 1, 64))
    assert found[0].min() == pytest.approx(1e-7) and not found[1].any()


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("layers.w_up_NDF", (32, 4096, 11008), Blocks(2, 256, 43)),
        ("layers.w_down_NFD", (32, 11008, 4096), Blocks(1, 256, 43)),
        ("layers.wq_NDHA", (32, 4096, 32, 128), Blocks(3, 4, 32)),
        ("layers.wo_NHAD", (32, 32, 80, 4096), Blocks(2, 2, 40)),
        ("embed_VD", (32000, 4096), Blocks(0, 256, 125)),
        ("layers.wkv_down_NDD2", (27, 2048, 576), Blocks(2, 16, 36)),
        (
            "layers.router_NDE",
            (27, 2048, 64),
            None,
        ),  # two blocks, which an expert axis could not divide
        ("layers.wq_NDHA", (3, 16, 2, 4), None),
        ("layers.scale_ND", (32, 4096), None),
        ("layers.bq_NHA", (32, 32, 128), None),
    ],
)
def test_blocks_depend_on_sizes_alone_and_lie_beside_the_model_width(name, shape, expected):
    assert blocks_of(name, shape) == expected


def test_a_state_is_less_than_three_tenths_of_32_bits():
    """Of everything: moments, scales, and what stays in 32 bits."""
    with jax.set_mesh(under(ONE_DEVICE)):
        params = jax.eval_shape(SMALL.build(Precision()).init, jax.random.key(0))
        states = [
            jax.eval_shape(Optimizer(rule=rule(), **RULES, schedule=CONSTANT).chain(9).init, params)
            for rule in (AdamW8bit, AdamW)
        ]
    small, large = (
        sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) for state in states
    )
    assert small <= 0.3 * large


def losses(optimizer, *, steps: int) -> np.ndarray:
    """Of training on documents that repeat one of 8 phrases, each step on other ones."""
    model, tx, mesh = (
        SMALL.build(Precision(compute="float32")),
        optimizer.chain(steps),
        under(ONE_DEVICE),
    )
    rng = np.random.default_rng(0)
    phrases = random_documents(rng, [11] * 8, SMALL.vocab_size)
    with jax.set_mesh(mesh):
        state = jax.jit(lambda key: new_state(model, Full(), tx, key))(jax.random.key(0))
        step, found = make_step({"policy": model}, NextToken(), Full(), tx, micro_batches=1), []
        for _ in range(steps):
            rows = [(phrases[i] * 3)[:33] for i in rng.integers(0, 8, 8)]
            noisy = [
                [[token if rng.random() < 0.8 else int(rng.integers(256)) for token in row]]
                for row in rows
            ]
            state, metrics = step(state, batch_on(mesh, token_batch(noisy, L=32)))
            found.append(metrics["loss/train"][0])
    return np.array(found, np.float64)


@pytest.mark.slow
def test_300_steps_end_with_the_loss_of_32_bits():
    """Within half a percent, over the last tenth."""
    rules = {**RULES, "schedule": WarmupCosine(warmup_steps=20, end_frac=0.1)}
    eight, full = (
        losses(Optimizer(rule=rule(), **rules), steps=300)[-30:].mean()
        for rule in (AdamW8bit, AdamW)
    )
    assert eight == pytest.approx(full, rel=0.005) and full < 4


def test_the_first_step_is_that_of_32_bits():
    """Moments are read from 8 bits, and used before they are written."""
    rules = {**RULES, "schedule": CONSTANT}
    params = {"w_DF": normal(16, 256), "scale_D": normal(16)}
    with jax.set_mesh(under(ONE_DEVICE)):
        chains = [Optimizer(rule=rule(), **rules).chain(9) for rule in (AdamW8bit, AdamW)]
        first = [
            quick_jit(lambda g, tx=tx: tx.update(g, tx.init(params), params)[0])(params)
            for tx in chains
        ]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), *first)
