"""Which kernel is chosen, what it refuses, and the program that cuDNN is given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from model.kernels import cudnn
from model.kernels.attend import Maths
from model.kernels.choose import attention_of
from tests.examples import ONE_DEVICE, under
from tests.model.kernel_cases import SETTINGS, case, relative_errors


@pytest.mark.parametrize(
    ("kernel", "platform"),
    [("splash", "cpu"), ("splash", "gpu"), ("cudnn", "cpu"), ("cudnn", "tpu")],
)
def test_a_kernel_of_another_platform_is_refused(kernel, platform):
    with pytest.raises(
        ValueError, match=f"execution.attention={kernel} needs a .*, not a {platform}; use auto"
    ):
        attention_of(kernel, "gather", platform)


@pytest.mark.parametrize(
    ("changes", "setting", "what"),
    [
        ({}, "causal", "float32"),
        ({"dtype": "bfloat16", "A": 8, "A2": 8}, "soft cap", "a soft cap"),
        ({"dtype": "bfloat16"}, "causal", "heads"),
    ],
)
def test_what_cudnn_cannot_do_is_said(changes, setting, what):
    *inputs, _ = map(jnp.asarray, case(L=6, **changes))
    with (
        jax.set_mesh(under(ONE_DEVICE)),
        pytest.raises(ValueError, match=f"execution.attention=cudnn cannot do {what}.*; use auto"),
    ):
        attention_of("cudnn", "gather", "gpu")(*inputs, SETTINGS[setting])


def test_auto_does_in_blocks_what_cudnn_cannot():
    assert (
        max(
            relative_errors(attention_of("auto", "gather", "gpu"), case(L=10), SETTINGS["soft cap"])
        )
        < 1e-5
    )


@pytest.mark.parametrize("kernel", ["auto", "plain", "blocked"])
def test_divided_rows_are_computed_with_every_kernel(kernel):
    attend = attention_of(kernel, "ring", "cpu")
    assert (
        max(
            relative_errors(
                attend, case(L=16), SETTINGS["causal"], {"data": 2, "context": 2, "tensor": 2}
            )
        )
        < 1e-5
    )


@pytest.mark.parametrize(
    ("rows", "alone"),
    [
        ([[1, 1, 1]], True),
        ([[1, 1, 0], [3, 0, 0]], True),
        ([[1, 2, 0]], False),
        ([[2, 1, 1]], False),
        ([[0, 1, 1]], False),
        ([[1, 0, 1]], False),
    ],
)
def test_only_one_document_a_row_with_padding_behind_needs_no_segments(rows, alone):
    assert bool(cudnn._is_one_document(jnp.array(rows))) == alone


@pytest.mark.parametrize("window", [None, 64])
def test_cudnn_is_lowered_with_and_without_segments(window, monkeypatch):
    # a machine without cuDNN cannot say its version; compiling the program is left to one that has it
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91300)
    inputs = case(L=128, H=4, K=2, A=16, A2=8, dtype="bfloat16")
    attend = attention_of("cudnn", "gather", "gpu")

    def run(q, k, v, positions, segments, grad):
        o, pull = jax.vjp(
            lambda q, k, v: attend(q, k, v, positions, segments, Maths(0.25, window, None)),
            q,
            k,
            v,
        )
        return o, pull(grad)

    with jax.set_mesh(under(ONE_DEVICE)):
        shapes = [jax.ShapeDtypeStruct(np.shape(x), x.dtype) for x in inputs]
        text = jax.jit(run).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()
    calls = (
        "fmhaSoftmax(",
        "fmhaSoftmaxBackward(",
        "fmhaScaleBiasSoftmax(",
        "fmhaScaleBiasSoftmaxBackward(",
    )
    assert all(call in text for call in calls)
    assert not any(
        "128x128x" in line for line in text.splitlines() if line.lstrip().startswith("}) : ")
    )  # no bias among what is kept
