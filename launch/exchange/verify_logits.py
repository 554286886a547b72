"""`--verify` of import and export: our logits beside those of transformers on the same random tokens."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from data_pipeline.temporary import temporary_folder
from model.api import ModelInputs, Params, finish_logits
from model.execution import Precision
from model.sharding import ALPHABET, einsum, named, shard

# 64 positions: enough to find a wrong tensor, and few enough for a large model on a CPU.
ROWS, TOKENS = 2, 32
MOST_TOKENS = 1024  # of a row that passes a window: more would fill the memory with logits
EXACT = 2e-3  # of the logits' standard deviation, which float32 alone stays below
# Nats: weights rounded to bfloat16 stay below 1e-3 in dense models, and below 1e-2 where single tokens choose
# other experts, whose logits then differ by much.
ROUNDED_NATS = 0.02


class Agreement(NamedTuple):
    """How far two sets of logits agree: the largest difference, the mean divergence KL(theirs ‖ ours), and
    how often the likeliest token is the same.
    """

    max_abs_error: float
    kl_nats: float
    top1_frac: float
    spread: float = 1.0  # standard deviation of their logits

    def check(self, *, rounded: bool) -> None:
        """Refuse logits that differ by more than rounding; `rounded`: of the weights of one side alone too.

        Raises:
            ValueError: they do.
        """
        exact = EXACT * self.spread
        # both are false where a number is NaN
        is_close = self.kl_nats <= ROUNDED_NATS if rounded else self.max_abs_error <= exact
        if not is_close:
            limit = f"{ROUNDED_NATS} nats" if rounded else f"{exact:.2e}"
            raise ValueError(
                f"--verify: our logits are not those of transformers ({self}; at most {limit} is "
                "rounding); look at the rope, window and tie_word_embeddings fields of config.json, "
                "and do not use these weights"
            )

    def __str__(self) -> str:
        errors = f"max abs error {self.max_abs_error:.2e}, KL {self.kl_nats:.2e} nats"
        return f"{errors}, top-1 agreement {100 * self.top1_frac:.1f} %"


def check_transformers(python: str) -> None:
    """Raise ValueError, with what to install, where that Python has no transformers."""
    try:
        done = subprocess.run(
            # Asked of that Python itself, which may be another installation.
            [python, "-c", "import torch, transformers"],
            capture_output=True,
            text=True,
        )
    except OSError as error:
        remedy = "name a Python with torch and transformers"
        raise ValueError(f"--verify-python {python}: {error.strerror}; {remedy}") from None
    if done.returncode:
        remedy = "run `pip install torch transformers`, or name a Python that has them with --verify-python"
        raise ValueError(f"--verify needs torch and transformers, which {python} lacks; {remedy}")


def verify(
    architecture: Any, params: Params, checkpoint: Path, *, python: str = sys.executable
) -> Agreement:
    """Compare with transformers reading `checkpoint`, both in float32. Call under `jax.set_mesh`.

    Raises:
        ValueError: transformers could not be run on it.
    """
    # A multiple of the axes that divide rows.
    n_rows = ROWS * int(
        np.prod([jax.sharding.get_mesh().shape[axis] for axis in ALPHABET["B"].in_use])
    )
    ids_BL = np.random.default_rng(0).integers(
        0, architecture.vocab_size, (n_rows, n_tokens(architecture)), dtype=np.int64
    )
    ours_BLV = logits(architecture, params, ids_BL)
    script = Path(__file__).with_name("reference_logits.py")
    with temporary_folder() as folder:
        ids_file = folder / "ids.npy"
        logits_file = folder / "logits.npy"
        config_file = folder / "config.json"
        config_file.write_text(json.dumps(architecture.to_hugging_face()))
        np.save(ids_file, ids_BL, allow_pickle=False)
        # In a process of its own, because torch and jax would compete for a GPU's memory.
        files = (checkpoint, ids_file, logits_file, config_file)
        command = [python, str(script), *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            # The last line of a traceback is the error itself.
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            remedy = "see whether it reads this model at all"
            raise ValueError(
                f"--verify: transformers cannot compute with {checkpoint} ({reason}); {remedy}"
            )
        theirs_BLV = np.load(logits_file, allow_pickle=False)
    return compare(ours_BLV, theirs_BLV)


def n_tokens(architecture: Any) -> int:
    """Positions of a row: past the windows and the context before scaling, as far as memory allows."""
    windows = [layer.attention.window or 0 for layer in architecture.facts().layers]
    scaling = dict(dict(architecture).get("rope_scaling") or {})
    passed = max(*windows, scaling.get("original_context", 0), 0) + TOKENS // 2
    return min(max(TOKENS, passed), MOST_TOKENS, architecture.context)


def logits(
    architecture: Any, params: Params, ids_BL: Int[np.ndarray, "B L"]
) -> Float[np.ndarray, "B L V"]:
    """Float32 logits of rows that are one document each. Call under `jax.set_mesh`."""
    model = architecture.build(Precision(compute="float32"))
    positions_BL = np.broadcast_to(np.arange(ids_BL.shape[1], dtype=np.int32), ids_BL.shape)
    # Segment 1 everywhere: one document a row; 0 would mean padding.
    segments_BL = np.ones_like(positions_BL)
    inputs = ModelInputs(_rows(ids_BL.astype(np.int32)), _rows(positions_BL), _rows(segments_BL))

    @jax.jit
    def forward(params: Params, inputs: ModelInputs) -> jax.Array:
        hidden_BLD = model.apply(params, inputs).hidden_BLD
        unembed_DV = shard(model.unembed(params), "DV")
        logits_BLV = einsum("BLD,DV->BLV", hidden_BLD, unembed_DV, dtype=jnp.float32)
        return finish_logits(logits_BLV, vocab_size=model.vocab_size, soft_cap=model.soft_cap)

    # By default TPUs and GPUs round the factors of float32 products to shorter types.
    with jax.default_matmul_precision("float32"):
        # The vocabulary may be padded to divide over the mesh; the padding is cut off.
        return np.asarray(forward(params, inputs))[..., : model.vocab_size]


def _rows(x: np.ndarray) -> jax.Array:
    return jax.device_put(x, named(jax.sharding.get_mesh(), "BL", x.shape))


def compare(
    ours_BLV: Float[np.ndarray, "B L V"], theirs_BLV: Float[np.ndarray, "_ _ _"]
) -> Agreement:
    """How far two sets of logits agree.

    Raises:
        ValueError: their shapes differ.
    """
    if ours_BLV.shape != theirs_BLV.shape:
        shapes = f"our logits have shape {ours_BLV.shape}, theirs {theirs_BLV.shape}"
        raise ValueError(f"{shapes}; import the model again")
    # float64, because the divergence is a sum of small differences that float32 would round away.
    ours_logp = _log_softmax(ours_BLV.astype(np.float64))
    theirs_logp = _log_softmax(theirs_BLV.astype(np.float64))
    kl_BL = np.sum(np.exp(theirs_logp) * (theirs_logp - ours_logp), -1)
    same_BL = ours_BLV.argmax(-1) == theirs_BLV.argmax(-1)
    return Agreement(
        float(np.abs(ours_BLV - theirs_BLV).max()),
        float(kl_BL.mean()),
        float(same_BL.mean()),
        float(theirs_BLV.std()),
    )


def _log_softmax(x: np.ndarray) -> np.ndarray:
    # The largest is subtracted first, or exp would overflow.
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))
