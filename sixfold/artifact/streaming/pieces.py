"""Which rows of the source are read together, so that all that is made of them takes them from one read."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import torch

from sixfold.artifact.streaming.walk import Piece
from sixfold.checkpoint.checkpoint import Checkpoint
from sixfold.checkpoint.expert_slice import reading_by
from sixfold.checkpoint.tensor_slice import TensorSlice

BLOCK = 16 << 20
"""About how many bytes of a tensor are read at a time where nothing asks for more of it at once."""


class Pieces:
    """The rows that `whole` slices ask for are one piece, together with all that overlap them; other rows, which are
    only copied, are pieces of BLOCK bytes. All in terms of what is stored: experts cut from a stack are rows of it.

    checkpoint: the source, whose reads are taken from the pieces that are held; what no held piece has is read.
    """

    def __init__(self, source: Checkpoint, whole: Iterable[TensorSlice]) -> None:
        self._stored = source.as_stored
        self._slices = source.slices
        self._place = {name: place for place, name in enumerate((*self._stored.tensors, *self._stored.quantized))}
        asked: dict[str, list[TensorSlice]] = {}
        for part in dict.fromkeys(map(self._as_stored, whole)):
            asked.setdefault(part.name, []).append(part)
        self._asked = asked
        self._cut: dict[str, list[Piece]] = {}
        self.checkpoint = reading_by(source, self._read)

    def of(self, parts: Iterable[TensorSlice]) -> tuple[Piece, ...]:
        """That hold any of the rows of `parts`, in their order."""
        found: dict[int, Piece] = {}
        for part in map(self._as_stored, parts):
            pieces = self._of_tensor(part.name)
            for piece in pieces[_at(pieces, part.start) :]:
                if piece.start >= part.stop:
                    break
                found[id(piece)] = piece
        return tuple(found.values())

    def rows(self, part: TensorSlice, piece: Piece) -> tuple[int, int]:
        """Those of `part` that the piece has, from the first to the one behind the last."""
        stored = self._as_stored(part)
        start, stop = max(stored.start, piece.start), min(stored.stop, piece.stop)
        if stored.name != piece.name or stop <= start:
            return part.start, part.start
        return (start, stop) if stored is part else (part.start, part.stop)

    def place(self, piece: Piece) -> tuple[int, int]:
        """Where it is in the source: pieces in this order are read one after the other."""
        return self._place[piece.name], piece.start

    def fetch(self, piece: Piece) -> torch.Tensor:
        return self._stored.read(TensorSlice(piece.name, piece.start, piece.stop))

    def _as_stored(self, part: TensorSlice) -> TensorSlice:
        cut = self._slices.get(part.name)
        return part if cut is None else TensorSlice(cut.stack, cut.expert, cut.expert + 1)

    def _of_tensor(self, name: str) -> list[Piece]:
        if name not in self._cut:
            tensor = self._stored.named(name)
            rows = tensor.shape[0] if tensor.shape else 1
            row_bytes = tensor.nbytes // max(1, rows)
            spans = _spans(self._asked.pop(name, ()), rows, max(1, BLOCK // max(1, row_bytes)))
            self._cut[name] = [Piece(name, start, stop, (stop - start) * row_bytes) for start, stop in spans]
        return self._cut[name]

    def _read(self, part: TensorSlice) -> torch.Tensor:
        """Shared by all that read them: not to be written to."""
        pieces = self._cut.get(part.name)
        if pieces:
            piece = pieces[_at(pieces, part.start)]
            tensor = piece.tensor
            if tensor is not None and part.stop <= piece.stop:
                whole = (part.start, part.stop) == (piece.start, piece.stop)
                return tensor if whole else tensor[part.start - piece.start : part.stop - piece.start]
        return self._stored.read(part)


def _at(pieces: Sequence[Piece], row: int) -> int:
    """Which of a tensor's pieces has the row."""
    return max(0, bisect_right(pieces, row, key=lambda piece: piece.start) - 1)


def _spans(asked: Sequence[TensorSlice], rows: int, step: int) -> list[tuple[int, int]]:
    """All rows, in order: those that are asked for together, and the others in steps."""
    together: list[tuple[int, int]] = []
    for part in sorted(asked, key=lambda part: part.start):
        if together and part.start < together[-1][1]:
            together[-1] = (together[-1][0], max(part.stop, together[-1][1]))
        else:
            together.append((part.start, part.stop))
    found: list[tuple[int, int]] = []
    position = 0
    for start, stop in (*together, (rows, rows)):
        found += [(first, min(first + step, start)) for first in range(position, start, step)]
        found += [(start, stop)] if stop > start else []
        position = stop
    return found
