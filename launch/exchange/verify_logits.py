"""`--verify` of import and export: our logits beside those of transformers on the same random tokens."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from model.api import ModelInputs, Params, finish_logits
from model.execution import Precision
from model.sharding import ALPHABET, einsum, named, shard

ROWS, TOKENS = 2, 32


class Agreement(NamedTuple):
    """Of two sets of logits: the largest difference, the mean divergence KL(theirs ‖ ours), and how often
    both favour the same token.
    """

    max_abs_error: float
    kl_nats: float
    top1_frac: float

    def __str__(self) -> str:
        return f"max abs error {self.max_abs_error:.2e}, KL {self.kl_nats:.2e} nats, top-1 agreement {100 * self.top1_frac:.1f} %"


def check_transformers(python: str) -> None:
    """Raise ValueError, with what to install, where that Python has no transformers."""
    try:
        found = subprocess.run([python, "-c", "import torch, transformers"], capture_output=True, text=True)
    except OSError as error:
        raise ValueError(
            f"--verify-python {python}: {error.strerror}; name a Python with torch and transformers"
        ) from None
    if found.returncode:
        raise ValueError(
            f"--verify needs torch and transformers, which {python} lacks; run `pip install torch transformers`, or name another Python "
            "that has them with --verify-python"
        )


def verify(architecture: Any, params: Params, checkpoint: Path, *, python: str = sys.executable) -> Agreement:
    """Compare with transformers reading `checkpoint`, both in float32. Call under `jax.set_mesh`.

    Raises:
        ValueError: transformers could not be run on it.
    """
    n_rows = ROWS * int(np.prod([jax.sharding.get_mesh().shape[axis] for axis in ALPHABET["B"].in_use]))
    ids_BL = np.random.default_rng(0).integers(0, architecture.vocab_size, (n_rows, TOKENS), dtype=np.int64)
    ours_BLV = logits(architecture, params, ids_BL)
    script = Path(__file__).with_name("reference_logits.py")
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder) / "ids.npy", Path(folder) / "logits.npy"
        np.save(asked, ids_BL, allow_pickle=False)
        done = subprocess.run(
            [python, str(script), str(checkpoint), str(asked), str(told)], capture_output=True, text=True
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(
                f"--verify: transformers cannot compute with {checkpoint} ({reason}); see whether it reads this model at all"
            )
        theirs_BLV = np.load(told, allow_pickle=False)
    return compare(ours_BLV, theirs_BLV)


def logits(architecture: Any, params: Params, ids_BL: Int[np.ndarray, "B L"]) -> Float[np.ndarray, "B L V"]:
    """Float32 logits of rows that are one document each. Call under `jax.set_mesh`."""
    model = architecture.build(Precision(compute="float32"))
    positions_BL = np.broadcast_to(np.arange(ids_BL.shape[1], dtype=np.int32), ids_BL.shape)
    inputs = ModelInputs(
        *(_rows(x) for x in (ids_BL.astype(np.int32), positions_BL, np.ones_like(positions_BL)))
    )

    @jax.jit
    def whole(params: Params, inputs: ModelInputs) -> jax.Array:
        logits_BLV = einsum(
            "BLD,DV->BLV",
            model.apply(params, inputs).hidden_BLD,
            shard(model.unembed(params), "DV"),
            dtype=jnp.float32,
        )
        return finish_logits(logits_BLV, vocab_size=model.vocab_size, soft_cap=model.soft_cap)

    with jax.default_matmul_precision("float32"):
        return np.asarray(whole(params, inputs))[..., : model.vocab_size]


def _rows(x: np.ndarray) -> jax.Array:
    return jax.device_put(x, named(jax.sharding.get_mesh(), "BL", x.shape))


def compare(ours_BLV: Float[np.ndarray, "B L V"], theirs_BLV: Float[np.ndarray, "_ _ _"]) -> Agreement:
    """How two sets of logits agree.

    Raises:
        ValueError: they have other shapes.
    """
    if ours_BLV.shape != theirs_BLV.shape:
        raise ValueError(
            f"our logits have shape {ours_BLV.shape}, theirs {theirs_BLV.shape}; import the model again"
        )
    ours_logp, theirs_logp = (_log_softmax(x.astype(np.float64)) for x in (ours_BLV, theirs_BLV))
    kl_BL = np.sum(np.exp(theirs_logp) * (theirs_logp - ours_logp), -1)
    same_BL = ours_BLV.argmax(-1) == theirs_BLV.argmax(-1)
    return Agreement(float(np.abs(ours_BLV - theirs_BLV).max()), float(kl_BL.mean()), float(same_BL.mean()))


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))
