"""Every instruction that a program runs, and how often: calls are followed, and loops multiply the count."""

from collections.abc import Iterator
from typing import NamedTuple

from launch.planning.hlo import Instruction, Module, Scope, attribute, called, trip_count

# Instructions whose computation runs once. Those of others (the addition of a reduce, the comparison of a
# sort) work on scalars, and are not counted.
ENTERED = ("fusion", "call", "async-start", "call-start", "custom-call-start")


class Occurrence(NamedTuple):
    """An instruction in the scope that calls it, and how often a step runs it. A loop whose length is not in
    the text counts as one iteration.
    """

    instruction: Instruction
    scope: Scope
    times: int
    fused: bool  # inside a fusion, where results stay on the chip
    endless: bool  # a loop without a known length


def walk(module: Module) -> Iterator[Occurrence]:
    """All instructions that the program runs, callers before what they call. Of the branches of a conditional
    only the longest is followed.
    """
    yield from _inside(module, Scope(module.entry), times=1, fused=False)


def _inside(module: Module, scope: Scope, *, times: int, fused: bool) -> Iterator[Occurrence]:
    for instruction in scope.computation.instructions.values():
        # What is in a loop counts once for each iteration.
        turns = trip_count(module, instruction, scope) if instruction.op == "while" else 1
        yield Occurrence(instruction, scope, times, fused, turns is None)
        for name in _entered(module, instruction):
            inner = Scope(module.computations[name], instruction, scope)
            yield from _inside(
                module,
                inner,
                times=times * (1 if turns is None else turns),
                fused=fused or instruction.op == "fusion",
            )


def _entered(module: Module, instruction: Instruction) -> list[str]:
    """The computations that an instruction runs, except those on scalars."""
    if instruction.op in ENTERED:
        return called(instruction)
    if instruction.op == "while":
        # Without the condition, which compares scalars.
        return [attribute(instruction, "body").lstrip("%")]
    if instruction.op == "conditional":
        # The branch with the most instructions is taken for the most expensive one.
        return [
            max(called(instruction), key=lambda name: len(module.computations[name].instructions))
        ]
    return []
