"""Splash attention against the plain form in Pallas's interpreter, and compiled for TPUs that are not
here.
"""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies

from model.kernels import context, splash
from model.kernels.attend import Maths
from model.kernels.choose import attention_of
from model.mesh import make_mesh, platform
from model.sharding import named
from tests.model.kernel_cases import SETTINGS, case, relative_errors

WIDE = {**SETTINGS, "window": Maths(scale=0.4, window=140, soft_cap=None)}
# B, L, H, K, A, A2, dtype, setting, mesh, strategy: head widths of the families, long rows, rows on several
# chips
SHAPES = [
    (2, 4096, 4, 2, 64, 64, "bfloat16", "causal", {}, "gather"),
    (2, 4096, 4, 2, 80, 80, "bfloat16", "causal", {}, "gather"),
    (2, 4096, 4, 2, 96, 96, "bfloat16", "causal", {}, "gather"),
    (2, 4096, 4, 4, 128, 128, "bfloat16", "causal", {}, "gather"),
    (2, 4096, 4, 4, 192, 128, "bfloat16", "causal", {}, "gather"),
    (2, 4096, 4, 2, 256, 256, "float32", "soft cap", {}, "gather"),
    (1, 16384, 4, 2, 256, 256, "bfloat16", "window", {}, "gather"),
    (1, 1000, 4, 2, 128, 128, "bfloat16", "causal", {}, "gather"),
    (2, 4096, 4, 2, 128, 128, "bfloat16", "causal", {"context": 2, "tensor": 2}, "gather"),
    (2, 8192, 4, 2, 128, 128, "bfloat16", "window", {"context": 4}, "ring"),
]


@pytest.mark.parametrize(("setting", "fused_up_to"), [("causal", 0), ("window", 4096)])
def test_splash_computes_what_plain_does(setting, fused_up_to, monkeypatch):
    compares(setting, fused_up_to, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "fused_up_to"),
    [("causal", 4096), ("window", 0), ("soft cap", 0), ("soft cap", 4096)],
)
def test_splash_in_all_forms_computes_what_plain_does(setting, fused_up_to, monkeypatch):
    compares(setting, fused_up_to, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("setting", WIDE)
@pytest.mark.parametrize("strategy", [context.gather, context.ring])
def test_splash_on_divided_rows_computes_what_plain_does(strategy, setting):
    attend, mesh = partial(strategy, kernel=splash.SPLASH), {"data": 2, "context": 2, "tensor": 2}
    assert max(relative_errors(attend, case(L=512), WIDE[setting], mesh)) < 1e-5


def compares(setting, fused_up_to, monkeypatch):
    monkeypatch.setattr(splash, "TILE", 128)
    monkeypatch.setattr(splash, "FUSED_UP_TO", fused_up_to)
    assert max(relative_errors(splash.attend, case(L=300, H=2, K=1), WIDE[setting])) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_splash_compiles_for_an_absent_tpu(topology, shape, monkeypatch):
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # tests run in several processes
    B, L, H, K, A, A2, dtype, setting, sizes, strategy = shape
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    mesh = make_mesh(devices[: 4 if sizes else 1], **sizes)

    def run(q, k, v, positions, segments, grad):
        attend = attention_of("auto", strategy, platform())
        o, pull = jax.vjp(
            lambda q, k, v: attend(q, k, v, positions, segments, WIDE[setting]), q, k, v
        )
        return o, pull(grad)

    def shape_of(letters, *shape, dtype=dtype):
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=named(mesh, letters, shape))

    q, grad = shape_of("BLHA", B, L, H, A), shape_of("BLHA", B, L, H, A2)
    k, v, row = (
        shape_of("BLKA", B, L, K, A),
        shape_of("BLKA", B, L, K, A2),
        shape_of("BL", B, L, dtype="int32"),
    )
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        text = jax.jit(run).lower(q, k, v, row, row, grad).compile().as_text()
    assert "splash_mha_fwd" in text and "splash_mha_dkv" in text
    assert ("all-gather" in text) == (bool(sizes) and strategy == "gather")
