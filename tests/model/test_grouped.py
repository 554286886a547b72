"""The product of rows with the matrices of their groups, as experts need it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.kernels.grouped import grouped_matmul, tiled_matmul
from tests.examples import ONE_DEVICE, quick_jit, under


@pytest.mark.parametrize(
    "sizes_E", [(200, 0, 57, 128, 1), (0, 0, 0, 0, 0), (0, 0, 386, 0, 0), (1, 1, 1, 1, 1)]
)
def test_tiles_multiply_each_row_with_the_matrix_of_its_group(sizes_E):
    rng = np.random.default_rng(0)
    x_CD, w_EDF = (
        rng.normal(size=(386, 9)).astype(np.float32),
        rng.normal(size=(5, 9, 4)).astype(np.float32),
    )
    group_C = np.repeat(np.arange(5), sizes_E)
    n = len(group_C)

    def tiled(x_CD, w_EDF):
        y_CF = tiled_matmul(x_CD, w_EDF, jnp.asarray(sizes_E, jnp.int32))
        return jnp.sum(jnp.sin(y_CF)), y_CF

    def by_rows(x_CD, w_EDF):
        y_CF = jnp.sum(x_CD[:n, :, None] * w_EDF[group_C], 1)
        return jnp.sum(jnp.sin(y_CF)), y_CF

    (_, y_CF), gradients = quick_jit(jax.value_and_grad(tiled, (0, 1), has_aux=True))(x_CD, w_EDF)
    (_, wanted_CF), wanted = quick_jit(jax.value_and_grad(by_rows, (0, 1), has_aux=True))(
        x_CD, w_EDF
    )
    np.testing.assert_allclose(y_CF[:n], wanted_CF, rtol=1e-5, atol=1e-5)
    assert not np.any(y_CF[n:])
    for found, right in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)


def test_the_grouped_product_of_this_platform_is_that_of_ragged_dot():
    rng = np.random.default_rng(1)
    x_CD, w_EDF = (
        jnp.asarray(rng.normal(size=(40, 6)), jnp.float32),
        jnp.asarray(rng.normal(size=(3, 6, 5)), jnp.float32),
    )
    sizes_E = jnp.asarray([7, 0, 33], jnp.int32)
    with jax.set_mesh(under(ONE_DEVICE)):
        found_CF = grouped_matmul(x_CD, w_EDF, sizes_E)
    np.testing.assert_allclose(
        found_CF, jax.lax.ragged_dot(x_CD, w_EDF, sizes_E), rtol=1e-5, atol=1e-5
    )
