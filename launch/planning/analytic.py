"""A step's work and memory estimated from sizes alone, without a compiler: for GPUs, for pruning a search,
and for the calibration.

The model is a stack of attention and feed-forward layers in this repository's layouts: weights are gathered
over `fsdp` layer by layer, forward and again backward; activations are divided over `tensor` between
products; gradients are scattered over `fsdp` and summed over the other axes of the batch.
"""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, AxisType

from launch.planning.collectives import Transfer, wire_factor
from launch.planning.compile import Memory
from launch.planning.roofline import Work
from model.api import leaf_name
from model.execution import KEPT, Execution
from model.mesh import undivided
from model.sharding import ALPHABET, AXES, letters_of, n_parts
from model.size import mean_keys
from trainer.models import models_of
from trainer.phase import initial_state
from trainer.run import Run
from trainer.token_logp import CHUNK

# Bytes of a number of each compute dtype that a Run may name.
BYTES = {"float32": 4, "bfloat16": 2}
# named activation -> how the weight begins whose product gives it; the backward pass computes that product
# again unless the activation is kept
PRODUCT_OF = {
    "query": "wq_",
    "key": "wk_",
    "value": "wv_",
    "attention": "wo_",
    "gate": "w_gate_",
    "up": "w_up_",
}
# Products of 2·L·T·A FLOPs a head. Backward needs five; splash's two kernels (for q, and for k and v) both
# compute scores and their gradient.
KERNEL_PRODUCTS = {"forward": 2, "backward": 7}
# How often a step reads or writes a layer's activations, as in the compiled Llama-2-7B (docs/planning.md).
HBM_PASSES = 30
# Activations of width D and of width F that are alive in a layer's backward pass, as in that program.
WORKSPACE = (8, 6)


class Leaf(NamedTuple):
    """One array of the state: its name, its letters, sizes and bytes an element."""

    name: str
    letters: str
    sizes: tuple[int, ...]
    n_bytes: int

    @property
    def n(self) -> int:
        """How many numbers the array holds."""
        return math.prod(self.sizes)

    @property
    def is_layer(self) -> bool:
        """Whether it is a matrix of a stack of layers."""
        return "N" in self.letters and len(self.letters) > 2


class Outline(NamedTuple):
    """The sizes of a Run that decide its cost, apart from the dials of a search."""

    shapes: Any  # of the merged models' parameters, by role
    params: tuple[Leaf, ...]
    state: tuple[Leaf, ...]  # of the optimizer
    layers: int
    width: int
    head_numbers: int  # heads · head width, the mean of queries and values
    kv_numbers: int
    keys: float  # positions that a position attends to, summed over layers
    inner_width: int  # of the feed-forward layer; of all experts of a token together
    experts: tuple[int, int]  # (a token's, all)
    vocab_size: int
    seq_len: int
    compute_bytes: int


class Plan(NamedTuple):
    """The dials: mesh (all axes of the alphabet), rows of a global batch, micro-batches, execution."""

    sizes: Mapping[str, int]
    batch_size: int
    micro_batches: int
    execution: Execution


def outline_of(run: Run) -> Outline:
    """Read a Run's sizes; nothing is compiled, and no layout has to divide."""
    a = run.architecture
    models = models_of(run)
    tx = run.optimizer.chain(run.steps)
    key = jax.eval_shape(lambda: jax.random.key(0))
    # `undivided`: sizes need not divide over a mesh, which is not chosen yet.
    with undivided():
        merged = {role: jax.eval_shape(each.init, key) for role, each in models.items()}
        state = jax.eval_shape(initial_state(run, models["policy"], tx), key)
    params = tuple(_leaves((state.trainable, state.frozen)))
    facts = a.facts()
    # Without the prediction modules (MTP), which are few and whose activations are freed early.
    own_layers = facts.layers[: len(facts.layers) - facts.mtp_layers]
    # Layers may differ; the one with the most heads has the largest activations.
    attention = max(own_layers, key=lambda layer: layer.attention.heads).attention
    experts = (facts.experts.top_k, facts.experts.experts)

    return Outline(
        shapes=merged,
        params=params,
        state=tuple(_leaves(state.opt_state)),
        layers=len(own_layers),
        width=facts.width,
        # The mean, because scores are a product over the query width, and mixing over the value's.
        head_numbers=attention.heads * (attention.qk_width + attention.v_width) // 2,
        kv_numbers=attention.kv_heads * attention.v_width,
        keys=sum(
            (mean_keys(run.data.row_length, layer.attention.window) for layer in facts.layers), 0.0
        ),
        inner_width=max((_inner_width(leaf, experts[0]) for leaf in params), default=4 * a.width),
        experts=experts,
        vocab_size=a.vocab_size,
        seq_len=run.data.row_length,
        compute_bytes=BYTES[run.precision.compute],
    )


def _inner_width(leaf: Leaf, n_experts: int) -> int:
    """F of a feed-forward matrix, times the number of experts of a token; 0 for other arrays."""
    if not leaf.is_layer or "F" not in leaf.letters:
        return 0
    return leaf.sizes[leaf.letters.index("F")] * (n_experts if "E" in leaf.letters else 1)


def _leaves(tree: Any) -> Iterator[Leaf]:
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = leaf_name(path)
        # Leaves out random keys, whose dtype is no number.
        if jax.numpy.issubdtype(leaf.dtype, jax.numpy.number):
            yield Leaf(name, letters_of(name), tuple(leaf.shape), leaf.dtype.itemsize)


def resting_bytes(leaves: tuple[Leaf, ...], sizes: Mapping[str, int]) -> float:
    """Bytes that a chip holds of arrays in their layout at rest on a mesh."""
    shards = _n_shards(tuple(sizes[axis] for axis in AXES))

    def on_a_chip(leaf: Leaf) -> float:
        # dict.fromkeys: a letter that a name has twice divides its first occurrence only.
        n_shards = math.prod(shards[letter] for letter in dict.fromkeys(leaf.letters))
        return leaf.n * leaf.n_bytes / n_shards

    return sum((on_a_chip(leaf) for leaf in leaves), 0.0)


@functools.cache
def _n_shards(shape: tuple[int, ...]) -> dict[str, int]:
    """Letter → into how many shards a mesh of this shape divides it at rest."""
    # An abstract mesh has no devices, so it can have any size.
    mesh = AbstractMesh(shape, AXES, axis_types=(AxisType.Explicit,) * len(AXES))
    with jax.sharding.use_abstract_mesh(mesh):
        return {letter: n_parts(letter, at_rest=True) for letter in ALPHABET}


def computed_again(execution: Execution) -> tuple[set[str], bool]:
    """(names of the activations whose products the backward pass repeats, whether attention itself is
    repeated).
    """
    preset = execution.remat.preset
    # Both keep every product with weights, but `dots` does not keep the result of attention.
    if preset in ("none", "dots"):
        return set(), preset == "dots"
    kept_names = {*KEPT[preset], *execution.remat.keep, *execution.remat.offload}
    return set(PRODUCT_OF) - kept_names, "mixed" not in kept_names


def work_of_plan(outline: Outline, plan: Plan) -> Work:
    """What one chip does in one step."""
    # Every axis of the mesh divides the tokens, or the work on a token.
    tokens = plan.batch_size * outline.seq_len / math.prod(plan.sizes.values())
    names, attention_again = computed_again(plan.execution)
    matrices = [leaf for leaf in outline.params if leaf.is_layer]
    layers = sum(_active(outline, leaf) for leaf in matrices)
    again = sum((_active(outline, leaf) for leaf in matrices if _product(leaf) in names), 0.0)
    head = outline.width * outline.vocab_size
    products = KERNEL_PRODUCTS["forward"] * (1 + attention_again) + KERNEL_PRODUCTS["backward"]

    # The bubble of a pipeline: a stage waits for S - 1 ticks.
    S = plan.sizes["stage"]
    pipeline = plan.execution.pipeline
    # Ticks in which it works; with more rounds they are shorter, and so is the bubble.
    n_ticks = (pipeline.micro_batches or S) * pipeline.rounds
    inner_bytes = outline.compute_bytes * (
        2 * outline.width + outline.head_numbers + outline.inner_width
    )
    # The update reads the state, writes it, and reads gradients, counted as if of the same size.
    state_bytes = 3 * resting_bytes(outline.state, plan.sizes)

    return Work(
        # FLOPs a weight: 2 forward, 4 backward. The chunked loss computes its logits twice: 2 more.
        matmul_flops=tokens * (6 * layers + 2 * again + 8 * head),
        kernel_flops=tokens * products * 2 * outline.head_numbers * outline.keys,
        hbm_bytes=HBM_PASSES * tokens * outline.layers * inner_bytes + state_bytes,
        transfers=tuple(_transfers(outline, plan, names)),
        slowdown=1 + (S - 1) / n_ticks,
        host_bytes=_host_bytes(outline, plan, tokens),
        notes=("all from sizes, nothing compiled: see the analytic model in docs/planning.md",),
    )


def _host_bytes(outline: Outline, plan: Plan, tokens: float) -> float:
    """Bytes that offloads move to the host's memory and back in a step."""
    offload, sizes = plan.execution.offload, plan.sizes
    resting = 0.0
    if "optimizer" in offload:
        resting += resting_bytes(outline.state, sizes)
    if "params" in offload:
        resting += resting_bytes(outline.params, sizes)
    numbers = numbers_of(outline)
    offloaded = sum(numbers[name] for name in plan.execution.remat.offload)
    # 2: to the host, and back.
    return 2 * (resting + tokens * outline.layers * outline.compute_bytes * offloaded)


def _active(outline: Outline, leaf: Leaf) -> float:
    """How many numbers of a matrix a token is multiplied with."""
    return leaf.n * (outline.experts[0] / outline.experts[1] if "E" in leaf.letters else 1.0)


def _product(leaf: Leaf) -> str | None:
    # A leaf's name is dotted; the last part is the weight's own, such as `wq_DHA`.
    last = leaf.name.rsplit(".", 1)[-1]
    return next((name for name, start in PRODUCT_OF.items() if last.startswith(start)), None)


def _transfers(outline: Outline, plan: Plan, again: set[str]) -> Iterator[Transfer]:
    """The collectives of one chip in one step; `again` names the activations that are computed again."""
    stream = _stream_bytes(outline, plan)
    yield from _weight_transfers(outline, plan)
    yield from _tensor_transfers(outline, plan, again, stream)
    yield from _context_transfers(outline, plan, stream)
    sizes, M = plan.sizes, plan.micro_batches

    # Every token is sent to each of its experts.
    routed = stream * outline.experts[0] / sizes["tensor"]
    # There and back, forward and backward, and once more where the forward pass is repeated.
    n_calls = M * _layers_here(outline, plan) * (4 + 2 * _is_recomputed(plan))
    yield from _transfer("all-to-all", ("expert",), sizes, routed, n_calls)
    # P micro-batches of the pipeline pass R times through S stages in R P + S - 1 ticks, and their
    # gradients as often (model/layers/pipeline.py).
    S = sizes["stage"]
    P = plan.execution.pipeline.micro_batches or S
    n_ticks = plan.execution.pipeline.rounds * P + S - 1
    sent = stream / P / sizes["tensor"]
    yield from _transfer("collective-permute", ("stage",), sizes, sent, 2 * M * n_ticks)


def _stream_bytes(outline: Outline, plan: Plan) -> float:
    """Bytes of one micro-batch's activations of width D between two layers, on the chips of one `tensor`
    axis together.
    """
    sizes = plan.sizes
    n_row_shards = math.prod(sizes[axis] for axis in ("data", "stage", "fsdp", "expert"))
    rows = plan.batch_size / plan.micro_batches / n_row_shards
    positions = rows * outline.seq_len / sizes["context"]
    # All rows pass through every stage of a pipeline, so `stage` does not divide them.
    return positions * outline.width * outline.compute_bytes * sizes["stage"]


def _layers_here(outline: Outline, plan: Plan) -> float:
    return outline.layers / plan.sizes["stage"]


def _is_recomputed(plan: Plan) -> int:
    """1 if the backward pass repeats the collectives of a layer's forward pass, else 0."""
    return 0 if plan.execution.remat.preset in ("none", "dots") else 1


def _weight_transfers(outline: Outline, plan: Plan) -> Iterator[Transfer]:
    """Weights are gathered over `fsdp` forward and (unless they are kept) again backward; gradients are
    reduce-scattered over it, and summed over the other axes of the batch.
    """
    sizes, M = plan.sizes, plan.micro_batches
    in_use = tuple(leaf._replace(n_bytes=outline.compute_bytes) for leaf in outline.params)
    # fsdp=1: what a chip holds after the gather over that axis.
    gathered = resting_bytes(in_use, {**sizes, "fsdp": 1})
    n_gathers = 1 if plan.execution.remat.preset == "none" else 2
    yield from _transfer("all-gather", ("fsdp",), sizes, gathered, M * n_gathers)
    yield from _transfer("reduce-scatter", ("fsdp",), sizes, gathered, M)
    # These sums come after the reduce-scatter, so a chip takes part with its shard only.
    others = tuple(axis for axis in ("data", "context") if sizes[axis] > 1)
    yield from _transfer("all-reduce", others, sizes, gathered / sizes["fsdp"], M)


def _tensor_transfers(
    outline: Outline, plan: Plan, again: set[str], stream: float
) -> Iterator[Transfer]:
    """Activations are gathered before attention and feed-forward, and reduce-scattered after them."""
    sizes = plan.sizes
    recomputed = _is_recomputed(plan)
    n_passes = plan.micro_batches * _layers_here(outline, plan)
    yield from _transfer("all-gather", ("tensor",), sizes, stream, n_passes * (4 + 2 * recomputed))
    # Of the two, only the one after attention is repeated, if attention's output is not kept.
    n_scatters = 4 + recomputed * ("attention" in again)
    yield from _transfer("reduce-scatter", ("tensor",), sizes, stream, n_passes * n_scatters)


def _context_transfers(outline: Outline, plan: Plan, stream: float) -> Iterator[Transfer]:
    """Keys and values of a row are gathered over `context`, and their gradients reduce-scattered."""
    sizes = plan.sizes
    # 2: keys and values. Times context, because `stream` has only a chip's positions of the row.
    keys = stream / outline.width * 2 * outline.kv_numbers / sizes["tensor"] * sizes["context"]
    n_passes = plan.micro_batches * _layers_here(outline, plan)
    yield from _transfer(
        "all-gather", ("context",), sizes, keys, n_passes * (1 + _is_recomputed(plan))
    )
    yield from _transfer("reduce-scatter", ("context",), sizes, keys, n_passes)


def _transfer(
    kind: str, axes: tuple[str, ...], sizes: Mapping[str, int], n_bytes: float, n_calls: float | int
) -> Iterator[Transfer]:
    n = math.prod(sizes[axis] for axis in axes)
    if n > 1:
        total = n_bytes * n_calls
        yield Transfer(kind, axes, n, total, total * wire_factor(kind, n), float(n_calls))


def memory_of_plan(outline: Outline, plan: Plan) -> Memory:
    """Bytes of one chip: state, gradients, activations kept for the backward pass, the gathered weights of
    two layers, and the temporaries of one layer.
    """
    sizes = plan.sizes
    on_host = plan.execution.offload
    params, state = resting_bytes(outline.params, sizes), resting_bytes(outline.state, sizes)
    arguments = params * ("params" not in on_host) + state * ("optimizer" not in on_host)
    # With several micro-batches their sum so far and the newest gradient are both alive.
    gradients = params * (2 if plan.micro_batches > 1 else 1)
    gathered = {**sizes, "fsdp": 1}
    in_use = tuple(leaf._replace(n_bytes=outline.compute_bytes) for leaf in outline.params)
    n_layers = _layers_here(outline, plan)
    layer = resting_bytes(tuple(leaf for leaf in in_use if leaf.is_layer), gathered) / n_layers
    head = resting_bytes(tuple(leaf for leaf in in_use if not leaf.is_layer), gathered)

    # Without `stage`, through which all rows of its chips pass.
    n_row_shards = math.prod(sizes[axis] for axis in ("data", "fsdp", "expert"))
    rows = plan.batch_size / plan.micro_batches / n_row_shards

    # Between products positions are divided over `tensor` too (sequence parallelism).
    tokens = rows * outline.seq_len / sizes["context"] / sizes["tensor"]
    # What the backward pass reads again, of every layer of the stage.
    saved = tokens * n_layers * _saved_bytes(outline, plan.execution)
    if plan.execution.remat.preset == "none":
        # The gathered weights of all layers are kept; half of them, because `layer` counts twice below.
        layer *= n_layers / 2

    # A stage works on one micro-batch of the pipeline at a time.
    in_stage = tokens / sizes["stage"] * outline.compute_bytes
    work = in_stage * (WORKSPACE[0] * outline.width + WORKSPACE[1] * outline.inner_width)

    # One chunk of logits and its gradient (2), in float32 (4 bytes).
    logits = 2 * 4 * rows / sizes["stage"] * CHUNK * outline.vocab_size / sizes["tensor"]

    # Two layers, because one computes while the next is gathered. `head` is the embedding and the
    # output matrix, gathered for the forward and for the backward pass.
    temporaries = gradients + saved + 2 * layer + 2 * head + work + logits
    host = params * ("params" in on_host) + state * ("optimizer" in on_host)

    return Memory(int(arguments), int(temporaries), int(arguments + temporaries), int(host))


def numbers_of(outline: Outline) -> dict[str, int]:
    """Named activation → how many numbers it has for each token and layer."""
    return {
        "query": outline.head_numbers,
        "key": outline.kv_numbers,
        "value": outline.kv_numbers,
        "mixed": outline.head_numbers,
        "attention": outline.width,
        "gate": outline.inner_width,
        "up": outline.inner_width,
        "feed_forward": outline.width,
    }


def _saved_bytes(outline: Outline, execution: Execution) -> int:
    """Bytes that are kept on the chip for the backward pass, for each token and layer."""
    sizes, preset = numbers_of(outline), execution.remat.preset
    kept_names = [*sizes] if preset in ("none", "dots") else [*KEPT[preset], *execution.remat.keep]
    # Without rematerialisation XLA also keeps norms, outputs of activation functions, float32 copies.
    extra = 4 * outline.width + 2 * outline.inner_width if preset == "none" else 0
    # outline.width: the input of a layer is always kept.
    return outline.compute_bytes * (outline.width + sum(sizes[name] for name in kept_names) + extra)
