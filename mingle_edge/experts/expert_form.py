"""The forms an expert can be exported in, and what each of them takes and keeps.

A stored expert is nested: its first r directions in every layer are its expert of rank r. With a precision, that is a form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from mingle_edge_runtime.bundle.json_record import RecordError, read_record

FormPrecision: TypeAlias = Literal["fp32", "int8", "int4"]

LARGEST_RANK = 1 << 16
CODES_PER_SCALE = 32
"""4-bit codes of a rank row that share a scale"""
_FLOAT, _HALF = 4, 2  # bytes
_FILE, _TENSOR, _SIDE = 48, 40, 8  # bytes of an adapter file beside tensors, of a tensor's record, of each of its sides


@dataclass(frozen=True)
class ExpertForm:
    """A rank and a precision, and what an expert keeps in it: measured on seeds that had no part in its adaptation."""

    rank: int
    """directions of each layer; a layer that has fewer keeps those"""
    precision: FormPrecision
    points_lost: float
    """points of accuracy that the fine-tuned model itself expects this form to lose, plus two standard errors; 0 to 100"""
    agreement: float
    """share of left-out images that get the fine-tuned model's label, 0 to 1"""

    def __str__(self) -> str:
        """Return the form without figures, as in `rank 16 in int8`."""
        return f"rank {self.rank} in {self.precision}"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` turns back into an equal form."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object, where: str) -> ExpertForm:
        """Read a form from a parsed JSON object. Raises `RecordError` naming the member, the rule and the value."""
        form = read_record(cls, value, where)
        for name, least, most in (("rank", 1, LARGEST_RANK), ("points_lost", 0, 100), ("agreement", 0, 1)):
            if not least <= getattr(form, name) <= most:
                raise RecordError(f"{where}.{name} is {getattr(form, name)}, must be between {least} and {most}")
        return form


def read_forms(record: Mapping[str, Any], where: str) -> tuple[ExpertForm, ...]:
    """Return the forms in a task's record, in their order; none where none were measured.

    record: of a task in `mingle.json`.
    where: what to call it in messages.

    Raises `RecordError` where a form is malformed, or there twice.
    """
    values = record.get("forms", [])
    if not isinstance(values, list):
        raise RecordError(f"{where}.forms must be a list")
    forms = tuple(ExpertForm.from_json(value, f"{where}.forms[{i}]") for i, value in enumerate(values))
    if len({(form.rank, form.precision) for form in forms}) < len(forms):
        raise RecordError(f"{where}.forms holds a form twice")
    return forms


def form_bytes(shapes: Mapping[str, Sequence[int]], rank: int, precision: FormPrecision) -> int:
    """Return the bytes that an expert's file has in a form at most, and to within a hundredth, without building it.

    shapes: of the stored arrays by name: `<layer>.A [r, d_in]`, `<layer>.B [d_out, r]`, and vectors.
    """
    # The flatbuffer of ONNX Runtime's adapters (docs/bundle-format.md), where all that follows its length is padded to 4 bytes.
    return _FILE + sum(
        _TENSOR + _SIDE * sides + _padded(len(name) + 1) + _padded(size)
        for name, sides, size in _tensors(shapes, rank, precision)
    )


def _padded(size: int) -> int:
    return -(-size // 4) * 4


def _tensors(shapes: Mapping[str, Sequence[int]], rank: int, precision: FormPrecision) -> Iterator[tuple[str, int, int]]:
    """Yield name, dimensions and bytes of every tensor of the file."""
    for name, shape in shapes.items():
        layer, _, side = name.rpartition(".")
        if side not in ("A", "B"):
            yield from _vector(name, shape, precision)
            continue
        stored, d = shape if side == "A" else shape[::-1]
        kept = min(rank, stored)
        if not kept:
            continue
        if precision == "fp32":
            yield name, 2, _FLOAT * kept * d
        elif precision == "int8":
            yield f"{name}_codes", 2, kept * d
            if side == "A":
                yield f"{layer}.scale", 1, _FLOAT * kept
        else:
            blocks = -(-d // CODES_PER_SCALE)
            yield f"{name}_nibbles", 2, kept * blocks * CODES_PER_SCALE // 2
            yield f"{name}_block_scales", 2, _HALF * kept * blocks


def _vector(name: str, shape: Sequence[int], precision: FormPrecision) -> Iterator[tuple[str, int, int]]:
    rows, d = (1, *shape)[-2:]
    if precision == "int4":
        yield f"{name}.change_codes", len(shape), rows * d
        yield f"{name}.change_scale", 1, _FLOAT * rows
    else:
        yield name, len(shape), _FLOAT * rows * d
