"""Scales that follow from the weights: where nearly all of a model's do, the few that do not were damaged.

Most tools store max |w| of a block over the format's largest number, rounded to the type of the scales, and for NVFP4
a global scale of 448 * 6 / max |w|; some round to BF16 on the way (compressed-tensors, in the weights' own type). One
flipped bit then shows, however little it changes the weights. Tools that search their scales leave many others, and
then nothing is said.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from sixfold.model.architecture import Linear
from verification.finding import EXPORT_AGAIN, Finding
from verification.reading.stored_codes import Codes

_FEW = 1 / 500
"""Share of a model's block scales that damage may touch, and of its global scales a tenth."""

_FEW_GLOBALS = 1 / 10
_CLOSE = 1e-5
"""Relative: one division in float32, or two."""

_ROUNDED = 2.0**-7
"""Relative: a few roundings to BF16, as compressed-tensors computes a global scale."""


@dataclass(frozen=True)
class _Odd:
    name: str
    row: int
    column: int
    held: float
    expected: float
    count: int


@dataclass
class Scales:
    """Gathered tensor by tensor; `findings` judges when all have been seen. blocks: how many a weight has; odd: by its
    name as well. largest: max |w| of each Linear's source, globals: what NVFP4 stores of it, by the Linear's name."""

    blocks: dict[str, int] = field(default_factory=dict)
    odd: dict[str, _Odd] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)
    globals: dict[str, float] = field(default_factory=dict)

    def add(self, names: Sequence[str], codes: Codes, source: torch.Tensor, counted: Sequence[bool]) -> None:
        """source: float32, the weights that were rounded, under one another. names: of each, on disk, "...weight".
        counted: which of them are to be judged, and to judge others by."""
        stored = codes.stored
        if stored is None:
            return
        count = len(names)
        if stored.global_scale is not None:
            held_globals = stored.global_scale.flatten()
            each = held_globals[:: max(1, len(held_globals) // count)].tolist()
            largest_of = source.view(count, -1).abs().amax(1).tolist()
            for name, held, largest, counts in zip(names, each, largest_of, counted, strict=True):
                if counts:
                    module = name.removesuffix(".weight")
                    self.globals[module], self.largest[module] = held, largest
        rows = source.shape[0] // count
        height, width = min(stored.block[0], rows), stored.block[1]
        blocks = _blocks_largest(source, height, width)
        scales = codes.scale.expand(source.shape)[::height, ::width]
        exact = blocks / float(codes.grid[-1])
        expected = stored.rounded(exact)
        wrong = ~(_close(scales, expected) | _close(scales, stored.rounded(exact.bfloat16().float()))) & (expected > 0)
        odd = wrong.view(count, -1).any(1).tolist()
        for number, name in enumerate(names):
            if counted[number]:
                self.blocks[name] = wrong.numel() // count
            if counted[number] and odd[number]:
                own = slice(number * len(wrong) // count, (number + 1) * len(wrong) // count)
                row, column = torch.nonzero(wrong[own])[0].tolist()
                values = float(scales[own][row, column]), float(expected[own][row, column])
                self.odd[name] = _Odd(name, row * height, column * width, *values, int(wrong[own].sum()))

    def findings(self, linears: Mapping[str, Linear]) -> Iterator[Finding]:
        if sum(odd.count for odd in self.odd.values()) <= _FEW * sum(self.blocks.values()):
            for odd in self.odd.values():
                more = f", and {odd.count - 1} more are off" if odd.count > 1 else ""
                what = (
                    f"the scale of the block at row {odd.row}, column {odd.column} is {odd.held:.6g}, where the largest"
                    f" weight of the block makes it {odd.expected:.6g}{more}; nearly all of the model fit theirs"
                )
                yield _finding(odd.name, what)
        wrong = list(self._odd_globals(linears))
        if len(wrong) <= _FEW_GLOBALS * len(self.globals):
            for name, held, expected in wrong:
                what = f"its global scale is {held:.6g}, where its largest weight makes it {expected:.6g}"
                yield _finding(f"{name}.weight", f"{what}; nearly all others of the model fit theirs")

    def _odd_globals(self, linears: Mapping[str, Linear]) -> Iterator[tuple[str, float, float]]:
        for name, held in self.globals.items():
            group: Sequence[str] = linears[name].fused or (name,) if name in linears else (name,)
            largest = max(self.largest.get(other, 0.0) for other in group)
            expected = 448 * 6 / largest if largest else held
            if abs(held - expected) > _ROUNDED * expected:
                yield name, held, expected


def _close(held: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    return (held - expected).abs() <= _CLOSE * expected


def _finding(name: str, what: str) -> Finding:
    consequence = "its weights are off by that factor: a bit changed after it was stored"
    return Finding("weights.scale", name, what, consequence, EXPORT_AGAIN)


def _blocks_largest(source: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """float32 [R / rows, C / columns], ragged at the edges."""
    size = source.abs()
    height, width = -size.shape[0] % rows, -size.shape[1] % columns
    padded = torch.nn.functional.pad(size, (0, width, 0, height))
    return padded.view(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns).amax((1, 3))
