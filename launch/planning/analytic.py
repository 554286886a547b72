"""A step's work and memory reckoned from sizes alone: for GPUs, for pruning a search, and for the
calibration; no compiler is asked.

It is about stacks of attention and feed-forward layers on this repository's layouts: weights gathered over
`fsdp` by layer, forward and again backward; activations divided over `tensor` between products; gradients
scattered over `fsdp` and summed over the other axes of the batch.
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
from trainer.phase import initial_state
from trainer.run import Run, models_of
from trainer.token_logp import CHUNK

# An element of the compute dtypes that a Run may name.
BYTES = {"float32": 4, "bfloat16": 2}
# what a layer's backward pass computes again: each weight whose product gives a named activation, unless that
# is kept
PRODUCT_OF = {
    "query": "wq_",
    "key": "wk_",
    "value": "wv_",
    "attention": "wo_",
    "gate": "w_gate_",
    "up": "w_up_",
}
# products of 2·L·T·A a head; splash's two backward kernels form scores and their gradient twice
KERNEL_PRODUCTS = {"forward": 2, "backward": 7}
# reads and writes of a layer's activations a step, as in the compiled Llama-2-7B (docs/planning.md)
HBM_PASSES = 30
# activations of width D and F that are alive in a layer's backward pass, as in the compiled Llama-2-7B
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
    """What of a Run decides its cost, apart from the dials of a search."""

    shapes: Any  # of the merged models' parameters, by role
    params: tuple[Leaf, ...]
    state: tuple[Leaf, ...]  # moments and all else that rests on the chips
    layers: int
    width: int
    head_numbers: int  # heads · head width, of queries and values in the mean
    kv_numbers: int
    keys: float  # positions that a position sees, summed over layers
    inner_width: int  # of the feed-forward layer, of all experts that a token meets
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
    # A key without values: eval_shape needs only its type.
    key = jax.eval_shape(lambda: jax.random.key(0))
    # Shapes alone: under automatic axes no size has to divide anything.
    with undivided():
        merged = {role: jax.eval_shape(each.init, key) for role, each in models.items()}
        state = jax.eval_shape(initial_state(run, models["policy"], tx), key)
    params = tuple(_leaves((state.trainable, state.frozen)))
    facts = a.facts()
    # the model's own layers; prediction modules are few, and their activations go when they are done
    own_layers = facts.layers[: len(facts.layers) - facts.mtp_layers]
    # Layers may differ; the one with most heads decides how large the activations are.
    attention = max(own_layers, key=lambda layer: layer.attention.heads).attention
    experts = (facts.experts.top_k, facts.experts.experts)

    return Outline(
        shapes=merged,
        params=params,
        state=tuple(_leaves(state.opt_state)),
        layers=len(own_layers),
        width=facts.width,
        # The mean of query and value width: each takes part in one of attention's two products.
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
    """F of a feed-forward matrix, times the experts that a token meets; 0 of other arrays."""
    if not leaf.is_layer or "F" not in leaf.letters:
        return 0
    return leaf.sizes[leaf.letters.index("F")] * (n_experts if "E" in leaf.letters else 1)


def _leaves(tree: Any) -> Iterator[Leaf]:
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = leaf_name(path)
        # Random keys have a dtype of their own, which is no number and takes no room worth
        # counting.
        if jax.numpy.issubdtype(leaf.dtype, jax.numpy.number):  # not a key
            yield Leaf(name, letters_of(name), tuple(leaf.shape), leaf.dtype.itemsize)


def resting_bytes(leaves: tuple[Leaf, ...], sizes: Mapping[str, int]) -> float:
    """Bytes of one chip of what lies at rest on a mesh."""
    # A letter that stands twice in a name divides its first occurrence only, hence `dict.fromkeys`.
    parts = _parts(tuple(sizes[axis] for axis in AXES))
    return sum(
        (
            leaf.n
            * leaf.n_bytes
            / math.prod(parts[letter] for letter in dict.fromkeys(leaf.letters))
            for leaf in leaves
        ),
        0.0,
    )


@functools.cache
def _parts(shape: tuple[int, ...]) -> dict[str, int]:
    """Into how many parts a mesh of this shape divides each letter at rest."""
    # An abstract mesh has sizes and no devices, so a mesh of any size can be asked.
    mesh = AbstractMesh(shape, AXES, axis_types=(AxisType.Explicit,) * len(AXES))
    with jax.sharding.use_abstract_mesh(mesh):
        return {letter: n_parts(letter, at_rest=True) for letter in ALPHABET}


def computed_again(execution: Execution) -> tuple[set[str], bool]:
    """(names of the activations whose products the backward pass repeats, whether attention itself is
    repeated).
    """
    preset = execution.remat.preset
    # These two keep every product; `dots` still repeats attention, whose result is no dot of weights.
    if preset in ("none", "dots"):
        return set(), preset == "dots"
    kept = {*KEPT[preset], *execution.remat.keep, *execution.remat.offload}
    return set(PRODUCT_OF) - kept, "mixed" not in kept


def work_of_plan(outline: Outline, plan: Plan) -> Work:
    """What one chip does in one step."""
    # All axes divide tokens or the work on them, so a chip's share is that of one device.
    tokens = plan.batch_size * outline.seq_len / math.prod(plan.sizes.values())
    names, attention_again = computed_again(plan.execution)
    matrices = [leaf for leaf in outline.params if leaf.is_layer]
    layers = sum(_active(outline, leaf) for leaf in matrices)
    again = sum((_active(outline, leaf) for leaf in matrices if _product(leaf) in names), 0.0)
    head = outline.width * outline.vocab_size
    products = KERNEL_PRODUCTS["forward"] * (1 + attention_again) + KERNEL_PRODUCTS["backward"]

    # a pipeline's bubble: S - 1 turns in which a stage waits, on top of those in which it works
    S = plan.sizes["stage"]
    pipeline = plan.execution.pipeline
    # A schedule with several rounds gives each stage more turns, so its bubble is a smaller
    # share.
    n_turns = (pipeline.micro_batches or S) * pipeline.rounds
    inner_bytes = outline.compute_bytes * (
        2 * outline.width + outline.head_numbers + outline.inner_width
    )
    # the update reads a state and writes it, and reads gradients of its size
    state_bytes = 3 * resting_bytes(outline.state, plan.sizes)

    return Work(
        # 2 forward and 4 backward a weight; the chunked loss computes its logits twice: 2 + 2 + 4
        matmul_flops=tokens * (6 * layers + 2 * again + 8 * head),
        kernel_flops=tokens * products * 2 * outline.head_numbers * outline.keys,
        hbm_bytes=HBM_PASSES * tokens * outline.layers * inner_bytes + state_bytes,
        transfers=tuple(_transfers(outline, plan, names)),
        slowdown=1 + (S - 1) / n_turns,
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
    # Twice: to the host, and back.
    return 2 * (resting + tokens * outline.layers * outline.compute_bytes * offloaded)


def _active(outline: Outline, leaf: Leaf) -> float:
    """Numbers of a matrix that a token is multiplied with."""
    return leaf.n * (outline.experts[0] / outline.experts[1] if "E" in leaf.letters else 1.0)


def _product(leaf: Leaf) -> str | None:
    last = leaf.name.rsplit(".", 1)[-1]
    return next((name for name, start in PRODUCT_OF.items() if last.startswith(start)), None)


def _transfers(outline: Outline, plan: Plan, again: set[str]) -> Iterator[Transfer]:
    """The collectives of one chip in one step; `again` names the activations that are computed again."""
    stream = _stream_bytes(outline, plan)
    yield from _weight_transfers(outline, plan)
    yield from _tensor_transfers(outline, plan, again, stream)
    yield from _context_transfers(outline, plan, stream)
    # M is the number of micro-batches, as in the papers on pipelines.
    sizes, M = plan.sizes, plan.micro_batches

    # tokens go to their experts and come back, forward and backward
    routed = stream * outline.experts[0] / sizes["tensor"]
    # Two exchanges forward and two backward, and two more where the forward pass is repeated.
    n_calls = M * _layers_here(outline, plan) * (4 + 2 * _is_recomputed(plan))
    yield from _transfer("all-to-all", ("expert",), sizes, routed, n_calls)
    # M micro-batches need M + S - 1 turns to pass through S stages.
    turns = (plan.execution.pipeline.micro_batches or sizes["stage"]) + sizes["stage"] - 1
    passed = stream / sizes["stage"] / sizes["tensor"]
    yield from _transfer("collective-permute", ("stage",), sizes, passed, 2 * M * turns)


def _stream_bytes(outline: Outline, plan: Plan) -> float:
    """Bytes of the activations of width D between two layers: of one micro-batch, on the chips that share
    its rows by `tensor`.
    """
    sizes = plan.sizes
    n_row_shards = math.prod(sizes[axis] for axis in ("data", "stage", "fsdp", "expert"))
    rows = plan.batch_size / plan.micro_batches / n_row_shards
    positions = rows * outline.seq_len / sizes["context"]
    # a pipeline's stages hold all rows one after the other, so `stage` does not divide them
    return positions * outline.width * outline.compute_bytes * sizes["stage"]


def _layers_here(outline: Outline, plan: Plan) -> float:
    return outline.layers / plan.sizes["stage"]


def _is_recomputed(plan: Plan) -> int:
    """1 if the backward pass repeats a layer's forward pass, with its collectives; else 0."""
    return 0 if plan.execution.remat.preset in ("none", "dots") else 1


def _weight_transfers(outline: Outline, plan: Plan) -> Iterator[Transfer]:
    """Weights are gathered over `fsdp` forward and, unless they are kept, backward; gradients are scattered
    over it and summed over the other axes of the batch.
    """
    sizes, M = plan.sizes, plan.micro_batches
    in_use = tuple(leaf._replace(n_bytes=outline.compute_bytes) for leaf in outline.params)
    # fsdp=1: after the gather every chip of the axis holds the layer whole.
    gathered = resting_bytes(in_use, {**sizes, "fsdp": 1})
    n_gathers = 1 if plan.execution.remat.preset == "none" else 2
    yield from _transfer("all-gather", ("fsdp",), sizes, gathered, M * n_gathers)
    yield from _transfer("reduce-scatter", ("fsdp",), sizes, gathered, M)
    # Over these axes gradients are summed after the scatter over fsdp, so each chip sums its shard alone.
    others = tuple(axis for axis in ("data", "context") if sizes[axis] > 1)
    yield from _transfer("all-reduce", others, sizes, gathered / sizes["fsdp"], M)


def _tensor_transfers(
    outline: Outline, plan: Plan, again: set[str], stream: float
) -> Iterator[Transfer]:
    """Activations are gathered before attention and feed-forward, and scattered behind them."""
    sizes = plan.sizes
    recomputed = _is_recomputed(plan)
    n_passes = plan.micro_batches * _layers_here(outline, plan)
    yield from _transfer("all-gather", ("tensor",), sizes, stream, n_passes * (4 + 2 * recomputed))
    # the scatter behind attention is repeated only if its output is
    n_scatters = 4 + recomputed * ("attention" in again)
    yield from _transfer("reduce-scatter", ("tensor",), sizes, stream, n_passes * n_scatters)


def _context_transfers(outline: Outline, plan: Plan, stream: float) -> Iterator[Transfer]:
    """Keys and values of a whole row are gathered, and their gradients scattered."""
    sizes = plan.sizes
    # Keys and values of the whole row, so the context's division is undone.
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
    """Bytes of one chip: state, gradients, activations kept for the backward pass, two layers' gathered
    weights, one layer's work.
    """
    sizes = plan.sizes
    on_host = plan.execution.offload
    params, state = resting_bytes(outline.params, sizes), resting_bytes(outline.state, sizes)
    arguments = params * ("params" not in on_host) + state * ("optimizer" not in on_host)
    # With several micro-batches the running sum and the newest gradient are both alive.
    gradients = params * (2 if plan.micro_batches > 1 else 1)
    whole = {**sizes, "fsdp": 1}
    in_use = tuple(leaf._replace(n_bytes=outline.compute_bytes) for leaf in outline.params)
    n_layers = _layers_here(outline, plan)
    layer = resting_bytes(tuple(leaf for leaf in in_use if leaf.is_layer), whole) / n_layers
    head = resting_bytes(tuple(leaf for leaf in in_use if not leaf.is_layer), whole)
    n_row_shards = math.prod(sizes[axis] for axis in ("data", "fsdp", "expert"))
    rows = plan.batch_size / plan.micro_batches / n_row_shards

    # between products positions are divided over `tensor` too
    tokens = rows * outline.seq_len / sizes["context"] / sizes["tensor"]
    # Only what the backward pass reads again is kept, of every layer of the stage.
    saved = tokens * n_layers * _saved_bytes(outline, plan.execution)
    if plan.execution.remat.preset == "none":
        layer *= (
            n_layers / 2
        )  # gathered weights are kept for the backward pass; two are counted below
    in_stage = tokens / sizes["stage"] * outline.compute_bytes
    work = in_stage * (WORKSPACE[0] * outline.width + WORKSPACE[1] * outline.inner_width)

    # one chunk of logits and its gradient, in float32
    logits = 2 * 4 * rows / sizes["stage"] * CHUNK * outline.vocab_size / sizes["tensor"]

    # two layers: one computes while the next one is gathered; two heads: embedding and output matrix
    temporaries = gradients + saved + 2 * layer + 2 * head + work + logits
    host = params * ("params" in on_host) + state * ("optimizer" in on_host)

    return Memory(int(arguments), int(temporaries), int(arguments + temporaries), int(host))


def numbers_of(outline: Outline) -> dict[str, int]:
    """Numbers a token and layer of each named activation."""
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
    """Bytes a token and layer that the backward pass finds on the chip."""
    sizes, preset = numbers_of(outline), execution.remat.preset
    # Without rematerialisation XLA keeps every named activation, and more that have no name.
    every = [*sizes] if preset in ("none", "dots") else [*KEPT[preset], *execution.remat.keep]
    extra = (
        4 * outline.width + 2 * outline.inner_width if preset == "none" else 0
    )  # norms, activations, float32 copies
    return outline.compute_bytes * (outline.width + sum(sizes[name] for name in every) + extra)
