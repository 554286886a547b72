"""Hardware FLOPs are those of the products in the program that is differentiated, for every family and
every way to keep results.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.interpreters.partial_eval import dce_jaxpr

from data_pipeline.batch import TokenBatch
from model.execution import KEPT, Execution, Precision, Remat
from model.recompute import hardware_flops_per_token_of
from model.size import flops_per_token_of
from tests.examples import ONE_DEVICE, under
from tests.model.matrix import FAMILIES
from tests.model.moe_examples import EXAMPLES
from trainer.objectives.next_token import NextToken

B, L = 2, 32
# rows end before windows and contexts do; experts take their tokens in slots, whose products can be counted:
# one for each choice
FAR = {"context": 1024, "window": 999, "capacity_factor": 1.0}


def far(sizes: Any) -> Any:
    return sizes.model_copy(
        update={name: value for name, value in FAR.items() if name in type(sizes).model_fields}
    )


SIZES = {name: far(sizes) for name, sizes in (FAMILIES | EXAMPLES).items()}
REMATS = (
    *(Remat(preset=name) for name in ("none", *KEPT, "dots")),
    Remat(preset="full", keep=("attention", "feed_forward")),
)


def products(jaxpr: Any) -> int:
    """FLOPs of all dots, loops multiplied out."""
    found = 0
    for equation in jaxpr.eqns:
        assert equation.primitive.name not in ("while", "ragged_dot", "pallas_call"), (
            "a product that cannot be counted"
        )
        if equation.primitive.name == "dot_general":
            ((contracted, _), _), left = (
                equation.params["dimension_numbers"],
                equation.invars[0].aval.shape,
            )
            found += (
                2
                * math.prod(equation.outvars[0].aval.shape)
                * math.prod(left[i] for i in contracted)
            )
        inner = [
            part
            for value in equation.params.values()
            for part in (value if isinstance(value, tuple) else (value,))
        ]
        for part in (getattr(part, "jaxpr", part) for part in inner):
            found += (
                products(part) * equation.params.get("length", 1) if hasattr(part, "eqns") else 0
            )
    return found


def counted(sizes: Any, execution: Execution) -> tuple[float, Any]:
    """FLOPs a token in the gradient of a loss as it is traced, and the shapes of the parameters."""
    ids, weights = (
        jax.ShapeDtypeStruct((B, L), jnp.int32),
        jax.ShapeDtypeStruct((B, L), jnp.float32),
    )
    batch, objective = TokenBatch(ids, ids, weights, ids, ids, ids), NextToken(mtp_weight=0.3)
    with jax.set_mesh(under(ONE_DEVICE)):
        model = sizes.build(Precision(compute="float32"), execution)
        params = jax.eval_shape(model.init, jax.random.key(0))

        def loss(params: Any, batch: TokenBatch) -> Any:
            return objective.loss(
                {"policy": (model, params)}, batch, objective.denominators(batch), jax.random.key(0)
            ).total

        jaxpr = jax.make_jaxpr(jax.grad(loss))(params, batch).jaxpr
    return products(dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]) / (B * L), params


def check(name: str, execution: Execution) -> None:
    """These kernels, in one block of queries, compute all scores: as many as half the keys of a row of
    twice the length.
    """
    found, params = counted(SIZES[name], execution)
    assert hardware_flops_per_token_of(
        SIZES[name], params, length=2 * L, execution=execution
    ) == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("attention", ["plain", "blocked"])
@pytest.mark.parametrize("remat", REMATS, ids=lambda remat: "-".join([remat.preset, *remat.keep]))
def test_what_is_said_is_what_is_computed(remat, attention):
    check("Llama", Execution(remat=remat, attention=attention))


@pytest.mark.parametrize("name", ["Gemma2", "Qwen3", "Mixtral", "DeepSeekV3"])
def test_what_is_said_is_what_is_computed_with_other_norms_experts_and_latents(name):
    check(name, Execution(remat=Remat(preset="inputs"), attention="blocked"))


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["plain", "blocked"])
@pytest.mark.parametrize("remat", REMATS, ids=lambda remat: "-".join([remat.preset, *remat.keep]))
@pytest.mark.parametrize("name", SIZES)
def test_what_is_said_is_what_is_computed_by_every_family_in_every_way(name, remat, attention):
    check(name, Execution(remat=remat, attention=attention))


def test_the_less_is_kept_the_more_is_computed_and_full_is_the_blocks_forward_once_more_but_for_their_last_products():
    sizes = SIZES["Llama"]
    _, params = counted(sizes, Execution())
    flops = {
        remat.preset: hardware_flops_per_token_of(
            sizes, params, length=L, execution=Execution(remat=remat)
        )
        for remat in REMATS[:-1]
    }
    model_flops = flops_per_token_of(sizes, params, length=L)
    assert (
        model_flops
        < flops["none"]
        < flops["projections"]
        < flops["inputs"]
        < flops["attention"]
        < flops["full"]
    )
    V = 128  # padded
    blocks = model_flops - 6 * sizes.width * V
    last = 2 * sizes.layers * sizes.width * sizes.feed_forward_width
    assert flops["full"] - flops["none"] == pytest.approx(blocks / 3 - last)
    scores = sizes.layers * sizes.heads * sizes.head_width * L
    assert flops["none"] - model_flops == pytest.approx(2 * sizes.width * V + scores)


def test_what_is_offloaded_is_not_computed_again():
    sizes = SIZES["Llama"]
    _, params = counted(sizes, Execution())
    kept, offloaded = (
        Execution(remat=Remat(preset="full", **{how: ("gate", "up")}))
        for how in ("keep", "offload")
    )
    flops = [
        hardware_flops_per_token_of(sizes, params, length=L, execution=execution)
        for execution in (kept, offloaded)
    ]
    assert flops[0] == flops[1]
