"""A layer's experts with all their tokens side by side, their inputs rounded as engines round them.

Of most formats every expert rounds a token alike: it is rounded once, and not by each expert that it goes to. What is
left to be done for each expert is its two products, so that a GPU is not waited for from expert to expert.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch

from sixfold.runner.experts import activation, first_name, first_projection
from verification.divergence.latent_inputs import Rounding

_SHARE_OF_GPU = 1 / 32
"""Of its memory, that the experts' outputs of the tokens that are looked at together may take."""
_ON_CPU = 1 << 18
"""Inputs of the experts that a processor looks at together: what stays in its cache."""
_FEW = 64
"""Rows of an expert up to which a GPU has its products with others' at once, with as many rows for each: what takes
time then is reading the matrices, and one product after the other would read them by a few of its cores."""
_ROUNDED_AT_ONCE = 1 << 26
"""Inputs under scales of their experts: what is computed of them takes some times their memory."""


@dataclass(frozen=True)
class Scaled:
    """A rounding under one scale for everything that is rounded together, one expert's tokens say.

    under: of the scale, a number or float32 [tokens, 1], and what is rounded. scale: None for what `of_largest` gives
    of the largest magnitude (float64).
    """

    under: Callable[[Any, torch.Tensor], torch.Tensor]
    scale: float | None
    of_largest: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.scale is not None:
            return self.under(self.scale, x)
        return self.under(float(self.of_largest(x.abs().max().double())), x) if x.numel() else x

    def is_like(self, rule: Rounding | None) -> bool:
        """Whether nothing but the scale differs."""
        if not isinstance(rule, Scaled) or (rule.scale is None) != (self.scale is None):
            return False
        return replace(rule, scale=self.scale) == self


@dataclass(frozen=True)
class ExpertInputs:
    """Of the matrices of one stacked parameter. rules: by expert, the matrix's on-disk name and how its inputs are
    rounded. squares: sums of those of what rounding moved, and of all, float64 [experts, 2], added up here."""

    rules: Mapping[int, tuple[str, Rounding]]
    squares: torch.Tensor

    @property
    def common(self) -> Rounding | None:
        """The one rounding of all experts, where it rounds token by token."""
        rules = {id(rule): rule for _, rule in self.rules.values()}
        if len(self.rules) < len(self.squares) or len(rules) > 1:
            return None
        (rule,) = rules.values()
        return None if _of_all_tokens(rule) else rule

    def rounded(self, rows: torch.Tensor, counts: Sequence[int], first: int) -> torch.Tensor:
        """rows: float32 [sum of counts, channels], inputs of the experts from `first` on, one below the other."""
        rules = [self._rule_of(expert) for expert in range(first, first + len(counts))]
        if isinstance(rules[0], Scaled) and all(map(rules[0].is_like, rules)):
            found = _under_scales(rules, rows, counts)  # type: ignore[arg-type]
        else:
            made, start = [], 0
            for rule, number in self._runs(counts, first):
                part = rows[start : start + number]
                made.append(part if rule is None else rule(part))
                start += number
            found = made[0] if len(made) == 1 else torch.cat(made)
        self.add(moved(found, rows), counts, first)
        return found

    def add(self, squares: torch.Tensor, counts: Sequence[int], first: int) -> None:
        """squares: as from `moved`, of all rows."""
        lengths = torch.tensor(counts).to(squares.device)
        sums = torch.segment_reduce(squares.double(), "sum", lengths=lengths, axis=0, unsafe=True)
        self.squares[first : first + len(counts)] += sums

    def _runs(self, counts: Sequence[int], first: int) -> Iterator[tuple[Rounding | None, int]]:
        """Numbers of neighboring rows that are rounded together."""

        def together(expert: int) -> object:
            rule = self._rule_of(expert)
            return expert if _of_all_tokens(rule) else -1 - id(rule)

        for _, run in groupby(range(first, first + len(counts)), key=together):
            experts = list(run)
            number = sum(counts[expert - first] for expert in experts)
            if number:
                yield self._rule_of(experts[0]), number

    def _rule_of(self, expert: int) -> Rounding | None:
        return self.rules[expert][1] if expert in self.rules else None


def _of_all_tokens(rule: Rounding | None) -> bool:
    """Whether how a token is rounded depends on those beside it."""
    return isinstance(rule, Scaled) and rule.scale is None


def _under_scales(rules: Sequence[Scaled], rows: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Neighboring experts' rows, each expert's under a scale of its own. rules: alike but for it."""
    lengths = torch.tensor(counts).to(rows.device)
    if rules[0].scale is None:
        largest = torch.segment_reduce(rows.abs().amax(-1), "max", lengths=lengths, axis=0, unsafe=True)
        each = rules[0].of_largest(largest.double())
    else:
        each = torch.tensor([rule.scale for rule in rules], dtype=torch.float64).to(rows.device)
    scales = each.float().repeat_interleave(lengths, output_size=len(rows))[:, None]
    step = max(1, _ROUNDED_AT_ONCE // rows.shape[1])
    parts = zip(scales.split(step), rows.split(step), strict=True)
    return torch.cat([rules[0].under(scale, part) for scale, part in parts])


def moved(rounded: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Of each row the squared sum of what rounding moved, and of all: [rows, 2]."""
    return torch.stack([torch.linalg.vector_norm(of, dim=-1).square() for of in (rounded - rows, rows)], -1)


def experts_at_once(inputs_of: Callable[[torch.Tensor], ExpertInputs | None]) -> Callable[..., torch.Tensor]:
    """For sixfold.runner.experts.experts_run_by. inputs_of: a stacked parameter -> how its inputs are rounded."""

    def forward(module: Any, hidden: torch.Tensor, index: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        most = len(hidden)
        if hidden.is_cuda:
            memory = torch.cuda.get_device_properties(hidden.device).total_memory
            most = max(1, int(_SHARE_OF_GPU * memory) // (index.shape[1] * hidden[:1].nbytes))
        parts = zip(hidden.split(most), index.split(most), gates.split(most), strict=True)
        return torch.cat([_of_tokens(module, *part, inputs_of) for part in parts])

    return forward


def _of_tokens(
    module: Any,
    hidden: torch.Tensor,
    index: torch.Tensor,
    gates: torch.Tensor,
    inputs_of: Callable[[torch.Tensor], ExpertInputs | None],
) -> torch.Tensor:
    """hidden [tokens, hidden]; index int64 and gates [tokens, top-k]; an index beyond the experts is of none."""
    top_k, width = index.shape[1], hidden.shape[1]
    first, last = inputs_of(first_projection(module)), inputs_of(module.down_proj)
    pairs = index.reshape(-1).sort(stable=True).indices  # by expert, and by token within one
    every = index.reshape(-1).bincount(minlength=module.num_experts)[: module.num_experts].tolist()
    read, squares = hidden, None
    if first is not None and (rule := first.common) is not None:
        read = rule(hidden)
        squares = moved(read, hidden)
    out = hidden.new_zeros(len(pairs), width)
    start = 0
    for begin, counts in _spans(every, len(pairs) if hidden.is_cuda else _ON_CPU // width):
        own = pairs[start : start + sum(counts)]
        start += len(own)
        tokens = own // top_k
        rows = read[tokens]
        if squares is not None and first is not None:
            first.add(squares[tokens], counts, begin)
        elif first is not None:
            rows = first.rounded(rows, counts, begin)
        places = _places(counts, rows.device) if rows.is_cuda else None
        inner = activation(module, _products(module, first_name(module), rows, counts, begin, places))
        if last is not None:
            inner = last.rounded(inner, counts, begin)
        made = _products(module, "down_proj", inner, counts, begin, places)
        out[own] = made * gates.reshape(-1)[own][:, None]
    return out.view(len(hidden), top_k, width).sum(1)


def _spans(counts: Sequence[int], most: int) -> Iterator[tuple[int, list[int]]]:
    """Neighboring experts with about `most` tokens together: the first, and how many tokens are of each."""
    begin = number = 0
    for expert, count in enumerate(counts):
        number += count
        if number >= most or (number and expert + 1 == len(counts)):
            yield begin, list(counts[begin : expert + 1])
            begin, number = expert + 1, 0


@dataclass(frozen=True)
class _Places:
    """Of rows of neighboring experts that have few: which they are, the expert of each, and its number among its rows.
    most: rows of one of these experts."""

    rows: torch.Tensor
    expert: torch.Tensor
    number: torch.Tensor
    most: int


def _places(counts: Sequence[int], device: torch.device) -> _Places | None:
    """None where most experts have many rows. counts: of their rows, one expert's below the other's."""
    lengths = torch.tensor(counts)
    few = lengths <= _FEW
    if 2 * int(few.sum()) < len(counts):
        return None
    expert = torch.repeat_interleave(lengths)
    number = torch.arange(len(expert)) - (lengths.cumsum(0) - lengths)[expert]
    rows = few[expert].nonzero().flatten()
    found: torch.Tensor = torch.stack((rows, expert[rows], number[rows])).to(device)
    return _Places(found[0], found[1], found[2], int(lengths[few].max()))


def _products(
    module: Any,
    name: str,
    rows: torch.Tensor,
    counts: Sequence[int],
    first: int,
    places: _Places | None,
) -> torch.Tensor:
    """Of each expert's rows with its matrix, without the hooks of functions that round inputs. places: of the rows
    whose products are made at once."""
    weight = getattr(module, name)
    weight = weight.mT if module.is_transposed else weight  # [experts, out, in]
    bias = getattr(module, name + "_bias") if module.has_bias else None
    out = rows.new_empty(len(rows), weight.shape[1])
    if places is not None:
        padded = rows.new_zeros(len(counts), places.most, rows.shape[1])
        padded[places.expert, places.number] = rows[places.rows]
        every = torch.bmm(padded, weight[first : first + len(counts)].mT)[places.expert, places.number]
        out[places.rows] = every if bias is None else every + bias[first + places.expert]
    start = 0
    for expert, number in enumerate(counts, first):
        own = slice(start, start + number)
        start += number
        if places is not None and number <= _FEW:
            continue
        if number and bias is None:
            torch.mm(rows[own], weight[expert].mT, out=out[own])
        elif number and bias is not None:
            torch.addmm(bias[expert], rows[own], weight[expert].mT, out=out[own])
    return out
