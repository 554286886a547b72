"""What others measured: MaxText's tables of MFU for v4, v5e, v5p and Trillium, with the shapes, batches and
meshes that gave them.

Sources: the README and the script of each model under `configs/tpu/{v4,v5e,v5p}` of MaxText, and its page
of optimized models (Trillium). Models named by their parameters are its `global_parameter_scale` of a base
with width 2048, 16 heads of 128, feed-forward 7168, 16 layers and a vocabulary of 32,000. Each doubling of
the scale doubles one of these in turn: heads and feed-forward, then width, then layers.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from data_pipeline.component import FrozenMap
from data_pipeline.loader import PackedShards
from launch.planning.analytic import Outline, outline_of
from model.architectures.llama import Llama
from model.execution import Remat
from trainer.checkpoints.checkpointer import Checkpoints
from trainer.objectives.next_token import NextToken
from trainer.optimizer import Optimizer
from trainer.optimizers.adamw import AdamW
from trainer.run import Run
from trainer.schedules import WarmupCosine


class Published(NamedTuple):
    """A row of MaxText's tables: model, slices, rows a chip, tensor axis, rematerialisation, MFU in %."""

    model: str
    topology: str
    n_slices: int
    rows: int
    seq_len: int
    tensor: int
    remat: Remat
    mfu: float


FULL, DOTS = Remat(preset="full"), Remat(preset="dots")
# MaxText's policies that offload q, k and v to the host, with and without the result of attention.
INPUTS = Remat(preset="full", offload=("query", "key", "value", "mixed"))
QKV = Remat(preset="full", offload=("query", "key", "value"))


def published() -> Iterator[Published]:
    """All rows of dense bf16 models, with the batch and the mesh of the script that made them."""
    # The columns: model, topology, rows a chip, tensor, remat, MFU with 1, 2, 4 … slices.
    for model, topology, rows, tensor, remat, mfus in (
        ("32B", "v5p:4x4x4", 7, 4, DOTS, (71.47, 69.43)),
        ("64B", "v5p:4x4x4", 3, 4, DOTS, (70.31, 67.26)),
        ("128B", "v5p:4x4x8", 1, 8, DOTS, (68.68, 66.34)),
        ("128B", "v5p:4x8x8", 1, 8, DOTS, (68.83, 59.66)),
        ("256B", "v5p:8x8x8", 1, 8, DOTS, (67.09, 62.99)),
        ("512B", "v5p:8x8x8", 2, 8, FULL, (63.99, 61.45)),
        ("1024B", "v5p:8x8x16", 2, 8, FULL, (55.35, 51.55)),
        ("1024B", "v5p:8x16x16", 2, 8, FULL, (64.80, 60.83)),
        ("16B", "v5e:16x16", 6, 1, FULL, (61.10, 59.37, 59.14, 58.27, 56.56, 54.65)),
        ("32B", "v5e:16x16", 4, 1, FULL, (66.86, 64.81, 64.10, 63.67, 62.26, 60.40)),
        ("64B", "v5e:16x16", 2, 1, FULL, (59.90, 56.66, 55.85, 54.96, 53.29, 50.18)),
        ("128B", "v5e:16x16", 1, 16, DOTS, (56.06, 55.82, 54.93, 52.93, 50.86, 46.25)),
        ("22B", "v4:4x4x4", 13, 1, FULL, (56.7, 55.2, 54.3, 53.2)),
        ("52B", "v4:4x4x12", 7, 1, FULL, (56.0, 58.9)),
    ):
        for i, mfu in enumerate(mfus):
            # The tables double the slices from column to column.
            yield Published(model, topology, 2**i, rows, 2048, tensor, remat, mfu)
    yield Published("Llama-3.1-8B", "v6e:16x16", 1, 4, 8192, 1, INPUTS, 45.46)
    yield Published("Llama-3.1-70B", "v6e:16x16", 1, 4, 8192, 1, QKV, 50.33)
    yield Published("Llama-2-70B", "v6e:16x16", 1, 2, 4096, 1, QKV, 43.8)


def sizes_of(model: str) -> dict[str, int]:
    """The sizes of a model of the tables."""
    names = (
        "width",
        "layers",
        "heads",
        "kv_heads",
        "head_width",
        "feed_forward_width",
        "vocab_size",
    )
    known = {
        # Two feed-forward matrices (4 × width) then; 2/3 of that in our three have as many numbers.
        "22B": (6144, 48, 24, 24, 256, 24_576 * 2 // 3, 32_000),
        "52B": (12_288, 32, 32, 32, 256, 49_152 * 2 // 3, 32_000),
        "Llama-3.1-8B": (4096, 32, 32, 8, 128, 14336, 128_256),
        "Llama-3.1-70B": (8192, 80, 64, 8, 128, 28672, 128_256),
        "Llama-2-70B": (8192, 80, 64, 8, 128, 28672, 32_000),
    }
    if model in known:
        return dict(zip(names, known[model], strict=True))

    # bit_length - 1 is the base-2 logarithm of a power of two: the number of doublings.
    cycles, left = divmod(int(model.removesuffix("B")).bit_length() - 1, 3)
    width = 2048 * 2 ** (cycles + (left > 1))
    heads = 16 * 2 ** (cycles + (left > 0))
    # 448 = 7168 / 16: feed-forward grows with the heads.
    values = (width, 16 * 2**cycles, heads, heads, 128, 448 * heads, 32_000)

    return dict(zip(names, values, strict=True))


@cache
def outline(model: str, seq_len: int) -> Outline:
    """The model as a Run with AdamW."""
    # A Run needs data, steps and a schedule, but only AdamW's state counts here.
    return outline_of(
        Run(
            architecture=Llama(context=seq_len, **sizes_of(model)),
            objective=NextToken(),
            data=PackedShards(
                folder="data/train", weights=FrozenMap(web=1.0), seq_len=seq_len, batch_size=1
            ),
            optimizer=Optimizer(
                rule=AdamW(),
                peak_lr=1e-4,
                schedule=WarmupCosine(warmup_steps=1, end_frac=0.1),
                weight_decay=0.1,
            ),
            steps=1,
            checkpoint=Checkpoints(every_steps=1),
        )
    )
