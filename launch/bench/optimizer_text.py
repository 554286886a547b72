"""What the bench of optimizers reads: bytes of Python's own standard library."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from data_pipeline.batch import TokenBatch
from model.sharding import letters_of, named

TEXT_BYTES, HELD_OUT_FRAC = 4_000_000, 0.05


def text_bytes() -> tuple[np.ndarray, np.ndarray]:
    """(training, held-out) bytes of the modules in the order of their names; what comes last is held out."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = np.frombuffer(b"".join(file.read_bytes() for file in files)[:TEXT_BYTES], np.uint8)
    cut = round(len(text) * (1 - HELD_OUT_FRAC))
    return text[:cut], text[cut:]


def batches(text: np.ndarray, *, rows: int, length: int, seed: int) -> Iterator[TokenBatch]:
    """Rows of `length` bytes from anywhere in the text, without end, on the current mesh."""
    rng, mesh = np.random.default_rng(seed), jax.sharding.get_mesh()
    ones_BL, positions_BL = (
        np.ones((rows, length), np.int32),
        np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length)),
    )
    while True:
        first = rng.integers(0, len(text) - length, rows)
        tokens = text[first[:, None] + np.arange(length + 1)].astype(np.int32)
        batch = TokenBatch(
            tokens[:, :-1], tokens[:, 1:], ones_BL.astype(np.float32), positions_BL, ones_BL, 0 * ones_BL
        )
        yield TokenBatch(
            *(
                jax.device_put(x, named(mesh, letters_of(name)))
                for name, x in zip(batch._fields, batch, strict=True)
            )
        )
