"""Optimized HLO text as data: computations of instructions, and how many iterations each loop makes.

The text is what XLA prints of a compiled program (`compiled.as_text()`), for CPU, GPU and TPU alike. It is
read as text because the protocol buffers behind it are no public interface, and because a saved text can be
read again without a compiler.
"""

import math
import re
from typing import NamedTuple

# dtypes whose number of bits is not in their name
BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128, "bf16": 16, "tf32": 32}
# bf16[8,128]{1,0:T(8,128)S(1)}: dtype, sizes (`<=8` is the bound of a dynamic size), layout
SHAPE = re.compile(r"([a-z]\w*)\[([\d,<=\s]*)\](?:\{([^}]*)\})?")
# `  ROOT %add.1 = …`
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
# `ENTRY %main (p0: f32[2]) -> f32[2] {`
HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
SEVERAL_CALLED = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
# instructions whose result has the value of their first operand
MEANING_THE_SAME = frozenset(
    ("copy", "bitcast", "convert", "reshape", "copy-done", "copy-start", "optimization-barrier")
)


class Shape(NamedTuple):
    """One array of a result: element type, sizes, memory space (0 is HBM; a TPU's others are on the chip or
    the host).
    """

    dtype: str
    sizes: tuple[int, ...]
    space: int = 0

    @property
    def n_elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.sizes)

    @property
    def n_bytes(self) -> int:
        """Bytes without the padding of a layout."""
        # Rounded up once for the array, because types below 8 bits are packed.
        return math.ceil(self.n_elements * bits_of(self.dtype) / 8)


class Instruction(NamedTuple):
    """One line of a computation; `shapes` are the arrays of its result, a tuple's in order; `rest` is all
    that follows the operands.
    """

    name: str
    op: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    inside: str  # the text between the parentheses: the operands, a constant's value, a parameter's number
    rest: str
    is_root: bool


class Computation(NamedTuple):
    """A function of the program: instructions by name, in order."""

    name: str
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        """The instruction whose result the computation returns."""
        return next(each for each in self.instructions.values() if each.is_root)

    @property
    def parameters(self) -> list[Instruction]:
        """The parameter instructions in the order of the arguments."""
        return sorted(
            (each for each in self.instructions.values() if each.op == "parameter"),
            key=lambda each: int(each.inside),
        )

    def users(self, name: str) -> list[Instruction]:
        """The instructions that read `name`."""
        # A name is unique within its computation.
        return [each for each in self.instructions.values() if name in each.operands]


class Module(NamedTuple):
    """A compiled program; `entry` is the computation that runs first."""

    computations: dict[str, Computation]
    entry: Computation


class Scope(NamedTuple):
    """A computation as it is called: `caller` is the instruction of `outer` that calls it; the entry has
    neither.
    """

    computation: Computation
    caller: Instruction | None = None
    outer: "Scope | None" = None


def bits_of(dtype: str) -> int:
    """Bits of an element: `bf16` 16, `f8e4m3fn` 8, `s4` 4."""
    return BITS[dtype] if dtype in BITS else int(re.search(r"\d+", dtype)[0])


def parse(text: str) -> Module:
    """The program that XLA printed.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations, current, entry = {}, None, None
    # Continuation lines are joined first: the attributes of a kernel may contain line breaks.
    for line in _whole_lines(text):
        if header := HEADER.match(line):
            current = Computation(header[2], {})
            computations[current.name] = current
            entry = current if header[1] else entry
        # What is neither is a closing brace or a comment.
        elif current is not None and INSTRUCTION.match(line):
            instruction = parse_instruction(line)
            current.instructions[instruction.name] = instruction
    if entry is None:
        raise ValueError(
            "the text holds no ENTRY computation; give the optimized HLO that `--hlo FILE` writes"
        )
    return Module(computations, entry)


def _whole_lines(text: str) -> list[str]:
    """The lines of the text, each with its continuation lines, which may begin with `}` themselves."""
    lines: list[str] = []
    for line in text.splitlines():
        if line == "}" or HEADER.match(line) or INSTRUCTION.match(line):
            lines.append(line)
        elif lines:
            lines[-1] += line
    return lines


def parse_instruction(line: str) -> Instruction:
    """`  ROOT %add.1 = f32[2]{0} add(%x, %y), metadata={…}` as an Instruction."""
    head = INSTRUCTION.match(line)
    at = head.end()
    # The type of a tuple is in parentheses and may have spaces; any other ends at the first space.
    type_end = _closing(line, at) + 1 if line[at] == "(" else line.index(" ", at)
    open_at = line.index("(", type_end)
    close_at = _closing(line, open_at)
    inside = line[open_at + 1 : close_at]

    return Instruction(
        name=head[2],
        op=line[type_end:open_at].strip(),
        shapes=shapes_of(line[at:type_end]),
        operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
        inside=inside,
        rest=line[close_at + 1 :],
        is_root=bool(head[1]),
    )


def _closing(line: str, at: int) -> int:
    """Where the parenthesis that opens at `at` closes."""
    depth = 0
    for i in range(at, len(line)):
        depth += (line[i] == "(") - (line[i] == ")")
        if depth == 0:
            return i
    raise ValueError(
        f"unbalanced parentheses in {line[:80]!r}; give the whole text that XLA printed"
    )


def shapes_of(text: str) -> tuple[Shape, ...]:
    """The arrays of a printed type, a tuple's in order."""
    return tuple(_shape(match) for match in SHAPE.finditer(text))


def _shape(match: re.Match) -> Shape:
    sizes = tuple(int(size.strip("<= ")) for size in match[2].split(",") if size.strip("<= "))
    space = re.search(r"S\((\d+)\)", match[3] or "")
    return Shape(match[1], sizes, int(space[1]) if space else 0)


def called(instruction: Instruction) -> list[str]:
    """The computations that an instruction names, in order."""
    several = [
        name.strip().lstrip("%")
        for group in SEVERAL_CALLED.findall(instruction.rest)
        for name in group.split(",")
    ]
    # An instruction has only one of the two forms.
    return CALLED.findall(instruction.rest) + several


def attribute(instruction: Instruction, name: str) -> str | None:
    """The value of `name=…` after the operands: a word, or all between braces; None if there is none."""
    match = re.search(rf"\b{name}=(\{{[^}}]*\}}|[^,\s]+)", instruction.rest)
    return match[1].strip("{}") if match else None


def trip_count(module: Module, loop: Instruction, outer: Scope) -> int | None:
    """Iterations of a `while`: as the compiler noted them, else by its condition `i < n` and its step; None
    where the text has neither.
    """
    # XLA notes the count in backend_config if it could prove it.
    if noted := re.search(r'"?known_trip_count"?\s*[:=]\s*\{"?n"?\s*:\s*"?(\d+)', loop.rest):
        return int(noted[1])
    condition_name = attribute(loop, "condition").lstrip("%")
    body_name = attribute(loop, "body").lstrip("%")
    condition = Scope(module.computations[condition_name], loop, outer)
    compare, where = _comparison(module, condition)
    if compare is None or len(compare.operands) != 2:
        return None

    # `i < n`: i is an element of the loop's tuple, n a constant
    index = _loop_variable(where, compare.operands[0])
    limit = constant_of(where, compare.operands[1])
    if index is None or limit is None:
        return None
    start = _initial(loop, index, outer)
    step = _step(Scope(module.computations[body_name], loop, outer), index)

    return _turns(attribute(compare, "direction"), start or 0, limit, step)


def _comparison(module: Module, scope: Scope) -> tuple[Instruction | None, Scope]:
    """(the comparison that a condition returns, also from inside a fusion; the scope of its operands)."""
    root = scope.computation.root
    # XLA for CPUs puts even a single comparison into a fusion.
    while root.op in ("fusion", "call"):
        scope = Scope(module.computations[called(root)[0]], root, scope)
        root = scope.computation.root
    return (root if root.op == "compare" else None), scope


def _source(scope: Scope, name: str) -> tuple[Scope, Instruction]:
    """(scope, instruction) that a value comes from: through copies and out of fusions, not out of loops."""
    instruction = scope.computation.instructions[name]
    if instruction.op in MEANING_THE_SAME and instruction.operands:
        return _source(scope, instruction.operands[0])
    if (
        instruction.op == "parameter"
        and scope.caller is not None
        and scope.caller.op in ("fusion", "call")
    ):
        return _source(scope.outer, scope.caller.operands[int(instruction.inside)])
    return scope, instruction


def _loop_variable(scope: Scope, name: str) -> int | None:
    """The index into the loop's tuple that a value is read from."""
    _, source = _source(scope, name)
    return int(attribute(source, "index")) if source.op == "get-tuple-element" else None


def constant_of(scope: Scope, name: str) -> int | None:
    """The integer that a value is at every iteration; None where the text does not tell. It may be defined
    outside of the loop.
    """
    scope, source = _source(scope, name)
    if source.op == "constant":
        return int(source.inside) if re.fullmatch(r"-?\d+", source.inside) else None
    if source.op != "get-tuple-element" or scope.caller is None or scope.caller.op != "while":
        return None
    if _source(scope, source.operands[0])[1].op != "parameter":  # of another loop's result, say
        return None
    # Assumes that the loop only passes this element on, as it does with a limit.
    return _initial(scope.caller, int(attribute(source, "index")), scope.outer)


def _initial(loop: Instruction, index: int, outer: Scope) -> int | None:
    """The value of an element of a loop's tuple before the first iteration; None if it is no constant."""
    where, start = _source(outer, loop.operands[0])
    return constant_of(where, start.operands[index]) if start.op == "tuple" else None


def _step(body: Scope, index: int) -> int:
    """The constant that an iteration adds to the loop variable; 1 where the text does not tell."""
    root = body.computation.root
    if root.op != "tuple":
        return 1
    scope, source = _source(body, root.operands[index])
    added = [constant_of(scope, name) for name in source.operands] if source.op == "add" else []
    return next((value for value in added if value), 1)


def _turns(direction: str | None, start: int, limit: int, step: int) -> int | None:
    """Iterations of `for i in start, start+step, … while i <direction> limit`."""
    # <= allows one value more than <, and >= one more than > on the way down.
    distance = limit - start + {"LE": 1, "GE": -1}.get(direction or "", 0)
    return (
        max(math.ceil(distance / step), 0) if direction in ("LT", "LE", "GT", "GE", "NE") else None
    )
