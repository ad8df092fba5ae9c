"""Kinds of the instructions of a compiled program, from its HLO text.

A trace names what ran, such as ``fusion.12``. The text says what that contains.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

KINDS = (
    "convolution",
    "matrix product",
    "BatchNorm, reductions",
    "elementwise",
    "copies",
    "other",
)
_CONVOLUTION, _PRODUCT, _REDUCTION, _ELEMENTWISE, _COPY, _OTHER = KINDS
_MOVES = frozenset(
    "bitcast bitcast-convert broadcast concatenate constant copy copy-done copy-start "
    "dynamic-slice dynamic-update-slice get-tuple-element iota pad parameter reshape "
    "reverse slice transpose tuple".split()
)
_ARITHMETIC = frozenset(
    "abs add and atan2 cbrt ceil clamp compare complex convert cosine divide erf "
    "exponential exponential-minus-one floor imag is-finite log log-plus-one logistic "
    "maximum minimum multiply negate not or popcnt power real reduce-precision "
    "remainder round-nearest-afz round-nearest-even rsqrt select shift-left "
    "shift-right-arithmetic shift-right-logical sign sine sqrt subtract tan "
    "tanh xor".split()
)
_HEAVY = (("convolution|conv[A-Z]", _CONVOLUTION), ("^dot|gemm|matmul", _PRODUCT))
# XLA may compute one as the other: on TPU, matrix products are convolutions.
_HEAVY_PRIMITIVES = {"conv_general_dilated": _CONVOLUTION, "dot_general": _PRODUCT}
# Kernels of libraries on GPU, by words in their names; the first match counts.
_KERNELS = (
    ("convolution|convolve|conv2d|fprop|dgrad|wgrad|winograd", _CONVOLUTION),
    ("gemm|gemv|cublas|cutlass|matmul|nvjet", _PRODUCT),
    ("reduc|batch_?norm|bn_", _REDUCTION),
    ("memcpy|memset|copy|transpose|nchw|nhwc", _COPY),
)

_HEADER = re.compile(r"(?:ENTRY )?%?([\w.-]+) .*\{$")
# A type has spaces only if it is a tuple.
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)")
_SHAPE = re.compile(r"\[([\d,]+)\]")
_CALLS = re.compile(r"\bcalls=%?([\w.-]+)")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_FRAME = re.compile(r"stack_frame_id=(\d+)")


class Operation(NamedTuple):
    """An operation that a trace can show.

    Attributes:
      kind: one of ``KINDS``.
      contains: what computes most array elements in it: JAX's names of the operations,
        and the function of the source code.
      outer: whether it runs other operations, as a loop does.
    """

    kind: str
    contains: str = ""
    outer: bool = False


class _Instruction(NamedTuple):
    opcode: str  # of a custom call: its target
    primitive: str  # JAX's name of the operation, or ""
    function: str  # function of the source code, or ""
    calls: str  # fused computation, or ""
    size: int  # array elements of the result, of a tuple its first array


def operations(hlo: str) -> dict[str, Operation]:
    """Returns the operations of a program, by their names in ``compiled.as_text()``."""
    computations = _computations(hlo)
    found = {}
    for instructions in computations.values():
        for name, whole in instructions.items():
            inside = computations.get(whole.calls, {}).values()
            outer = whole.opcode in ("while", "conditional", "call")
            parts = list(inside) or [whole]
            found[name] = Operation(_kind(parts), _contains(parts), outer)
    return found


def kernel_kind(name: str) -> str:
    """Returns the kind of a kernel that the program does not name."""
    matching = (kind for words, kind in _KERNELS if re.search(words, name, re.I))
    return next(matching, _OTHER)


def _computations(hlo: str) -> dict[str, dict[str, _Instruction]]:
    """Returns the instructions of every computation, by name."""
    computations: dict[str, dict[str, _Instruction]] = {}
    current: dict[str, _Instruction] = {}
    function_of = _functions(hlo)
    for line in hlo.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header[1], {})
        elif found := _INSTRUCTION.match(line):
            name, result, opcode, rest = found.groups()
            current[name] = _Instruction(
                _first(_TARGET, rest) or opcode,
                _first(_OP_NAME, rest).rpartition("/")[2],
                function_of.get(_first(_FRAME, rest), ""),
                _first(_CALLS, rest),
                math.prod(map(int, (_first(_SHAPE, result) or "1").split(","))),
            )
    return computations


def _functions(hlo: str) -> dict[str, str]:
    """Returns the function of every stack frame, from the tables above the program."""
    tables: dict[str, dict[str, str]] = {}
    rows: dict[str, str] = {}
    for line in hlo.splitlines():
        number, _, rest = line.partition(" ")
        if number.isdecimal():
            rows[number] = rest.strip('"')
        elif number and not rest:
            rows = tables.setdefault(number, {})
    names, places = tables.get("FunctionNames", {}), tables.get("FileLocations", {})
    function = re.compile(r"function_name_id=(\d+)")
    location = re.compile(r"file_location_id=(\d+)")
    return {
        frame: names.get(_first(function, places.get(_first(location, row), "")), "")
        for frame, row in tables.get("StackFrames", {}).items()
    }


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


def _kind(parts: Sequence[_Instruction]) -> str:
    """Returns the kind of an instruction, or of a fusion of several.

    The first of ``KINDS`` that occurs in a fusion decides. Copies do no arithmetic.
    """
    for part in parts:
        for opcodes, kind in _HEAVY:
            if re.search(opcodes, part.opcode):
                return _HEAVY_PRIMITIVES.get(part.primitive, kind)
    opcodes = {part.opcode for part in parts}
    normalises = any("BatchNorm" in part.function for part in parts)
    if opcodes & {"reduce", "reduce-window"} or (normalises and opcodes & _ARITHMETIC):
        return _REDUCTION
    if opcodes <= _MOVES:
        return _COPY
    return _ELEMENTWISE if opcodes <= _MOVES | _ARITHMETIC else _OTHER


def _contains(parts: Sequence[_Instruction]) -> str:
    """Returns the text of ``Operation.contains``."""
    sizes: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for part in parts:
        if part.opcode not in ("parameter", "constant"):
            sizes[part.primitive or part.opcode] += part.size
            functions[part.function] += part.size
    del functions[""]
    where = "".join(f" in {name}" for name, _ in functions.most_common(1))
    return ", ".join(name for name, _ in sizes.most_common(3)) + where
