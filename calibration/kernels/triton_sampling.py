"""Which of a batch's rows are sampled, decided and moved on the GPU, so that the host never waits for it.

What is kept does not depend on how tokens were batched: of each expert the rows whose tokens have the lowest ranks. A
row that stays keeps its slot; a newcomer takes the slot of a row that leaves. After the first batches there are few
newcomers, and only they are moved.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

_PAYLOAD = 24
"""Low bits of a key: which row it is; a rank stands above. A batch has fewer than 2^24 pairs, a calibration fewer than
2^38 tokens."""
_MASK: tl.constexpr = tl.constexpr((1 << _PAYLOAD) - 1)
_SHIFT: tl.constexpr = tl.constexpr(_PAYLOAD)
_EMPTY: tl.constexpr = tl.constexpr(1 << 38)
_LAST: tl.constexpr = tl.constexpr((1 << 63) - 1)


@dataclass(frozen=True)
class Site:
    """One input of the experts. sample: bfloat16 [experts, size, width], and kept: int64 [experts, size], the ranks of
    its rows (of an empty slot the largest int64); both are changed. rows: bfloat16 [tokens, width] where `by_token`,
    else [pairs, width] in the order of the pairs."""

    sample: torch.Tensor
    kept: torch.Tensor
    rows: torch.Tensor
    by_token: bool


def keep_lowest(
    sites: Sequence[Site],
    order: torch.Tensor,
    ends: torch.Tensor,
    counts: torch.Tensor,
    ranks: torch.Tensor,
    top_k: int,
) -> None:
    """Put a batch's rows into the samples of all `sites`, which have sampled the same tokens so far.

    order: int64 [pairs], the pair (token x top_k + slot) in each row, rows sorted by expert; ends, counts: int64
    [experts], of each expert's rows. ranks: int64 [tokens] of the batch, all different within the calibration.
    """
    experts, size = sites[0].kept.shape
    slots = triton.next_power_of_2(size)
    moves = torch.empty(2, experts, slots, dtype=torch.int32, device=order.device)
    moved = torch.empty(experts, dtype=torch.int32, device=order.device)
    _choose[(experts,)](sites[0].kept, order, ends, counts, ranks, *moves, moved, top_k, size, SLOTS=slots)
    for site in sites:
        width = site.sample.shape[2]
        _move[(slots, experts)](
            *moves,
            moved,
            site.rows,
            order,
            ranks,
            site.sample,
            site.kept,
            top_k,
            size,
            width,
            SLOTS=slots,
            BY_TOKEN=site.by_token,
            COLUMNS=1024,
        )


@triton.jit
def _choose(kept, order, ends, counts, ranks, rows, slots, moved, top_k, size, SLOTS: tl.constexpr):
    """Writes moved [experts] int32, how many rows enter, and in rows, slots [experts, SLOTS] int32 which and where to.

    One program per expert: it merges SLOTS rows at a time into the keys of what is kept, skipping those that hold
    nothing better.
    """
    expert = tl.program_id(0)
    slot = tl.arange(0, SLOTS)
    count = tl.load(counts + expert)
    start = tl.load(ends + expert) - count
    rank = tl.minimum(tl.load(kept + expert * size + slot, mask=slot < size, other=0), _EMPTY)
    # A slot beyond the sample's size stands before everything, so that nothing takes its place.
    keys = tl.where(slot < size, (rank << _SHIFT) | slot, slot.to(tl.int64) - SLOTS)
    for first in range(0, count, SLOTS):
        offset = first + slot
        live = offset < count
        token = tl.load(order + start + offset, mask=live, other=0) // top_k
        rank = tl.load(ranks + token, mask=live, other=0)
        new = tl.where(live, (rank << _SHIFT) | (SLOTS + offset), _LAST)
        if tl.min(new) < tl.max(keys):
            both = tl.sort(tl.join(keys, new).reshape(2 * SLOTS)).reshape(2, SLOTS)
            keys = tl.sum(tl.where(tl.arange(0, 2)[:, None] == 0, both, 0), 0)
    payload = (keys & _MASK).to(tl.int32)
    stays = (keys >= 0) & (payload < SLOTS)
    enters = (keys >= 0) & (payload >= SLOTS)
    leaves = (tl.histogram(payload, SLOTS, mask=stays) == 0) & (slot < size)
    tl.store(rows + expert * SLOTS + tl.cumsum(enters.to(tl.int32), 0) - 1, start + payload - SLOTS, mask=enters)
    tl.store(slots + expert * SLOTS + tl.cumsum(leaves.to(tl.int32), 0) - 1, slot, mask=leaves)
    tl.store(moved + expert, tl.sum(enters.to(tl.int32)))


@triton.jit
def _move(
    rows,
    slots,
    moved,
    source,
    order,
    ranks,
    sample,
    kept,
    top_k,
    size,
    width,
    SLOTS: tl.constexpr,
    BY_TOKEN: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One row per program into its slot, and its rank into kept. Grid (SLOTS, experts); most have nothing to do."""
    number, expert = tl.program_id(0), tl.program_id(1)
    if number >= tl.load(moved + expert):
        return
    row = tl.load(rows + expert * SLOTS + number).to(tl.int64)
    token = tl.load(order + row) // top_k
    place = expert.to(tl.int64) * size + tl.load(slots + expert * SLOTS + number)
    tl.store(kept + place, tl.load(ranks + token))
    if BY_TOKEN:
        row = token
    for first in range(0, width, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        values = tl.load(source + row * width + column, mask=column < width)
        tl.store(sample + place * width + column, values, mask=column < width)
