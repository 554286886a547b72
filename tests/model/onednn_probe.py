"""Loss and gradients of a small Llama on one CPU device, for tests/model/test_onednn.py: argument 1 is the
file to write.
"""

import sys

import jax
import numpy as np

from model.architectures.llama import Llama
from model.execution import Precision
from model.mesh import make_mesh
from tests.examples import batch_on, random_documents, token_batch
from trainer.objectives.next_token import NextToken

SIZES = Llama(
    vocab_size=1024,
    width=512,
    layers=2,
    heads=8,
    kv_heads=4,
    head_width=64,
    feed_forward_width=768,
    context=512,
)


def main() -> None:
    """As large as the products are in real runs: small ones do not reach the library."""
    mesh, rng = make_mesh(jax.devices()[:1]), np.random.default_rng(0)
    batch = token_batch(
        [random_documents(rng, (200, 150, 160), SIZES.vocab_size) for _ in range(8)], L=512
    )
    model, objective = SIZES.build(Precision(compute="float32")), NextToken()
    with jax.set_mesh(mesh):

        def loss(params, batch):
            return objective.loss(
                {"policy": (model, params)}, batch, objective.denominators(batch), jax.random.key(0)
            ).total

        value, gradient = jax.jit(jax.value_and_grad(loss))(
            jax.jit(model.init)(jax.random.key(0)), batch_on(mesh, batch)
        )
    leaves = {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(gradient)
    }
    np.savez(sys.argv[1], loss=np.asarray(value), **leaves)


if __name__ == "__main__":
    main()
