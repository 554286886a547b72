"""Bytes that a program moves between HBM and the chip: an estimate from what its instructions read and
write.
"""

from launch.planning.hlo import Computation, Instruction, Module, Shape, called
from launch.planning.walk import Occurrence

# Instructions that move no data themselves: names, views, the start or end of an operation whose other half
# is counted, and callers, whose computations are counted.
FREE = frozenset(
    """
    parameter constant tuple get-tuple-element bitcast iota partition-id replica-id after-all while call
    conditional optimization-barrier add-dependency async-start async-update async-done call-start call-update
    call-done copy-done all-gather-done all-reduce-done collective-permute-done custom-call-start
    custom-call-update custom-call-done send send-done recv recv-done slice-start dynamic-slice-start
    dynamic-update-slice-done
    """.split()
)
VIEWS = ("bitcast", "reshape", "copy", "convert", "transpose")
SLICES = ("dynamic-slice", "slice", "gather")
# Only these move data between memory spaces.
COPIES = (
    "copy",
    "copy-start",
    "dynamic-slice",
    "dynamic-slice-done",
    "dynamic-update-slice",
    "dynamic-update-slice-start",
)
HOST_SPACE = 5  # XLA for TPUs writes host memory as S(5) in a layout
NO_DATA_CALLS = ("AllocateBuffer", "AssumeGatherIndicesInBound", "Sharding")


def hbm_bytes(module: Module, occurrence: Occurrence) -> int:
    """Bytes read and written in HBM by one instruction outside of fusions; of an array that is sliced or
    updated in place, only those of the slice.
    """
    instruction = occurrence.instruction
    computation = occurrence.scope.computation
    # [:200]: the call's target comes first; the body of a kernel may contain the same words.
    is_no_data_call = any(word in instruction.rest[:200] for word in NO_DATA_CALLS)
    if occurrence.fused or instruction.op in FREE or is_no_data_call:
        return 0
    operands = [computation.instructions[name] for name in instruction.operands]
    if instruction.op == "fusion":
        return _fusion_bytes(module, instruction, operands)
    # The slice is read, and written elsewhere.
    if instruction.op.removesuffix("-done") in SLICES:
        return 2 * _in_hbm(instruction.shapes)
    # In place: the new slice is read and written, the rest of the array is not touched.
    if instruction.op.removesuffix("-start") == "dynamic-update-slice":
        return 2 * _in_hbm(operands[1].shapes)
    if instruction.op == "copy-start":
        # The third shape of a copy-start is its context, not data.
        return _in_hbm(instruction.shapes[:2])

    return _in_hbm(instruction.shapes) + sum(_in_hbm(each.shapes) for each in operands)


def host_bytes(occurrence: Occurrence) -> int:
    """Bytes that a copy moves to or from the host's memory."""
    instruction, known = occurrence.instruction, occurrence.scope.computation.instructions
    if occurrence.fused or instruction.op not in COPIES:
        return 0
    operands = [shape for name in instruction.operands for shape in known[name].shapes]
    shapes = [*instruction.shapes[:2], *operands]
    if HOST_SPACE not in {shape.space for shape in shapes}:
        return 0
    # The smallest array: of one that is sliced or updated only the slice moves.
    return min((shape.n_bytes for shape in shapes if shape.sizes), default=0)


def _in_hbm(shapes: tuple[Shape, ...]) -> int:
    return sum(shape.n_bytes for shape in shapes if shape.space == 0)


def _fusion_bytes(module: Module, fusion: Instruction, operands: list[Instruction]) -> int:
    """Bytes that a fusion reads of each operand, and writes of each result."""
    inside = module.computations[called(fusion)[0]]
    read = sum(
        # No more than is in HBM: an operand may already be in memory on the chip.
        min(_used(module, inside, to), _in_hbm(given.shapes))
        for to, given in zip(inside.parameters, operands, strict=True)
    )
    root = inside.root
    # A fusion with several results returns a tuple.
    roots = [inside.instructions[name] for name in root.operands] if root.op == "tuple" else [root]
    written = sum(
        _new(module, inside, each)
        for each, shape in zip(roots, fusion.shapes, strict=False)
        if shape.space == 0
    )
    return read + written


def _used(module: Module, inside: Computation, parameter: Instruction) -> int:
    """Bytes of a value that the instructions of a fusion read, directly or through views of it."""
    read = sum(_used_by(module, inside, user, parameter) for user in inside.users(parameter.name))
    # Not more than all of it: what several users read comes from HBM once.
    return min(read, _bytes(parameter))


def _used_by(module: Module, inside: Computation, user: Instruction, value: Instruction) -> int:
    """Bytes that one user reads: a slice its own, an update in place none, a view those its users read."""
    if user.op in SLICES:
        return _bytes(user)
    # The first operand of an update in place is the array that it writes into.
    if user.op == "dynamic-update-slice" and user.operands[0] == value.name:
        return 0
    if user.op == "fusion":
        # A fusion inside a fusion: look at what is done with the value there.
        inner = module.computations[called(user)[0]]
        return sum(
            _used(module, inner, to)
            for to, name in zip(inner.parameters, user.operands, strict=True)
            if name == value.name
        )
    if user.op in VIEWS and inside.users(user.name):
        return _used(module, inside, user)
    return _bytes(value)


def _new(module: Module, inside: Computation, root: Instruction) -> int:
    """Bytes of a fusion's result that it writes: those of the slice for an update in place, else all."""
    # Looks through views at the end, which write nothing more.
    while root.op in VIEWS:
        root = inside.instructions[root.operands[0]]
    if root.op == "fusion":
        inner = module.computations[called(root)[0]]
        return _new(module, inner, inner.root) if inner.root.op != "tuple" else _bytes(root)
    if root.op == "dynamic-update-slice":
        return _bytes(inside.instructions[root.operands[1]])
    return _bytes(root)


def _bytes(instruction: Instruction) -> int:
    return sum(shape.n_bytes for shape in instruction.shapes)
