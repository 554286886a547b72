"""Every instruction of a program that runs, with how often: loops multiplied out, called computations
entered.
"""

from collections.abc import Iterator
from typing import NamedTuple

from launch.planning.hlo import Instruction, Module, Scope, attribute, called, trip_count

# instructions whose computation runs once; those of others (the sum of a reduce, the order of a sort) are of
# scalars and cost nothing
ENTERED = ("fusion", "call", "async-start", "call-start", "custom-call-start")


class Occurrence(NamedTuple):
    """An instruction in the scope that calls it, and how often a step runs it. A loop whose length is not in
    the text counts as one turn.
    """

    instruction: Instruction
    scope: Scope
    times: int
    fused: bool  # inside a fusion, where results stay on the chip
    endless: bool  # a loop without a known length


def walk(module: Module) -> Iterator[Occurrence]:
    """All that the program runs, callers before what they call. Of a conditional's branches the longest is
    taken.
    """
    # times=1: a step runs its entry once.
    yield from _inside(module, Scope(module.entry), times=1, fused=False)


def _inside(module: Module, scope: Scope, *, times: int, fused: bool) -> Iterator[Occurrence]:
    for instruction in scope.computation.instructions.values():
        # every instruction of a loop counts as often as the loop turns
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
    """The computations that run where the instruction stands."""
    if instruction.op in ENTERED:
        return called(instruction)
    if instruction.op == "while":
        # The condition is a comparison of scalars.
        return [attribute(instruction, "body").lstrip("%")]
    if instruction.op == "conditional":
        # The branch with the most instructions stands for the dearest one.
        return [
            max(called(instruction), key=lambda name: len(module.computations[name].instructions))
        ]
    return []
