"""One walk over the layers: the original and the pruned model side by side, each from its own hidden states.

Of every layer the original says what it gives, and the pruned one, behind all layers healed so far, what its experts
read and what is missing from its output; then the kept experts are refitted (refit.py), and the healed layer runs again
for the next. What is missing includes what earlier layers could not give back: what the experts read tells a part of
it. Where a layer scales or norms what its experts give before it is added, it is what is missing from their own output.
What is finished stays in a work folder: healed weights, both models' hidden states, and `progress.json`, written last.
A killed walk resumes after its last finished layer and ends in the same bytes on the same machine.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pruning.healing.block import Watch, adds_up, run_layer
from pruning.healing.healed_weights import layer_file
from pruning.healing.kinds import by_token, kinds_of, segment_means
from pruning.healing.refit import Fit, refit
from pruning.healing.seen import Seen
from pruning.healing.text import Text
from sixfold.artifact.workspace import read_json, replacing, write_json
from sixfold.checkpoint.storage.tensor_file import write_tensors
from sixfold.errors import SixfoldError
from sixfold.model.meta_model import transformers_config
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.runner.experts import first_name
from sixfold.runner.hidden_states import HiddenStates, mapped
from sixfold.runner.layer_runner import LayerRunner, batches_of
from sixfold.runner.layer_weights import Piece

BATCH_TOKENS = 8192
_PROGRESS = "progress.json"
_SHARE = 0.3
"""Of a GPU's free memory that one record of all tokens may take."""
_TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}

VERSION = 4
"""Of the method: another one makes other weights of the same texts."""


def disk_bytes(source: Source, tokens: int) -> int:
    """What a walk keeps in its work folder at most, beside the healed weights: in float32 two models' hidden states in
    two files each, and a record of inputs and of what is missing."""
    width = int(transformers_config(source.checkpoint.config).get_text_config().hidden_size)
    return 6 * tokens * width * torch.float32.itemsize


@dataclass(frozen=True)
class Healed:
    """fits: by decoder layer, of those with experts. kinds: of text that were told apart. folder: of the weights."""

    fits: Mapping[int, Fit]
    kinds: int
    folder: Path


def heal(
    original: Source,
    pruned: Source,
    layers: Sequence[int],
    text: Text,
    work: Path,
    *,
    key: str,
    device: torch.device,
    progress: Progress,
) -> Healed:
    """layers: those with experts. pruned: may be a view of the original (pruning.pruned_view). key: digest of all
    that decides the result; what another key left in `work` is not used.

    Computes in float32 on the CPU and, where the family allows it, in BF16 on a GPU. Raises SixfoldError where the
    family's experts are not run through transformers' interface, or its layers cannot be run one at a time.
    """
    dtype = torch.float32 if device.type == "cpu" or original.architecture.in_float32 else torch.bfloat16
    before = LayerRunner(original, dtype=dtype, device=device, ahead=False)
    after = LayerRunner(pruned, dtype=dtype, device=device, ahead=False)
    batches = batches_of([*text.ids, *text.random], BATCH_TOKENS)
    total = 3 * text.tokens * len(before.layers)
    with torch.inference_mode(), progress("healing", total, "tokens") as advance:
        walk = _Walk(before, after, batches, work, key, advance)
        begin = walk.begin()
        advance(total * begin // len(before.layers))
        for (layer, _), _ in zip(before.each_layer(begin), after.each_layer(begin), strict=True):
            walk.step(layer, has_experts=layer in layers)
        return Healed(dict(walk.fits), walk.kinds, work)


class _Walk:
    """State of a walk: hidden states of both models, and what was found so far."""

    def __init__(
        self,
        before: LayerRunner,
        after: LayerRunner,
        batches: Sequence[torch.Tensor],
        work: Path,
        key: str,
        advance: Callable[[int], None],
    ) -> None:
        self._runners = before, after
        self._batches, self._work, self._key, self._advance = batches, work, key, advance
        self._tokens = sum(batch.numel() for batch in batches)
        self._kinds = torch.empty(0, dtype=torch.int64)
        self._hidden: tuple[HiddenStates, ...] = ()
        self.fits: dict[int, Fit] = {}

    def begin(self) -> int:
        """The layer to go on with. The hidden states are what an earlier walk left, or the embeddings."""
        shapes: list[tuple[int, ...]] = []
        segments: list[torch.Tensor] = []
        for runner in self._runners:  # both must have seen every batch's shape, and both embed alike
            shapes, segments = [], []
            with runner.outside():
                for batch in self._batches:
                    embedded = runner.start(batch)
                    shapes.append(tuple(embedded.shape))
                    segments.append(segment_means(embedded))
        self._kinds = self._kinds_of(segments)
        dtype = self._runners[0].dtype
        places = [self._work / name for name in ("original", "pruned")]
        left = read_json(self._work / _PROGRESS)
        resumable = not any(runner.hands_on for runner in self._runners)
        if left is not None and left["key"] == self._key and resumable:
            turns = left["turns"]
            self._hidden = tuple(HiddenStates(p, shapes, dtype, turn) for p, turn in zip(places, turns, strict=True))
            if [hidden.checksum() for hidden in self._hidden] == left["checksums"]:
                self.fits = {int(layer): Fit(**fit) for layer, fit in left["fits"].items()}
                return int(left["layers"])
        for stale in self._work.glob(layer_file(0).replace("00000", "*")):
            stale.unlink()
        self._hidden = tuple(HiddenStates(place, shapes, dtype) for place in places)
        for runner, hidden in zip(self._runners, self._hidden, strict=True):
            with runner.outside():
                for number, batch in enumerate(self._batches):
                    hidden.write(number, runner.start(batch))
            hidden.flip()
        return 0

    def _kinds_of(self, segments: Sequence[torch.Tensor]) -> torch.Tensor:
        """Of every token; segments: of every batch."""
        rows = torch.cat([part.flatten(0, 1) for part in segments])
        found = kinds_of(rows).split([part.shape[0] * part.shape[1] for part in segments])
        return torch.cat(
            [
                by_token(kinds.view(part.shape[:2]), batch.shape[1])
                for kinds, part, batch in zip(found, segments, self._batches, strict=True)
            ]
        )

    def step(self, layer: int, *, has_experts: bool) -> None:
        if has_experts:
            self._heal(layer)
        else:
            for runner, hidden in zip(self._runners, self._hidden, strict=True):
                run_layer(runner, layer, self._batches, hidden, Watch(), self._advance, keep=True)
            self._advance(self._tokens)
        for hidden in self._hidden:
            hidden.flip()
        write_json(
            self._work / _PROGRESS,
            {
                "key": self._key,
                "layers": layer + 1,
                "turns": [hidden.turn for hidden in self._hidden],
                "checksums": [hidden.checksum() for hidden in self._hidden],
                "fits": {number: asdict(fit) for number, fit in self.fits.items()},
            },
        )

    def _heal(self, layer: int) -> None:
        before, after = self._runners
        record = _Record(self._tokens, self._work, after.device)
        self._watched(before, layer, Watch(record.gave), self._hidden[0], keep=True)
        module = self._watched(after, layer, Watch(record.reads), self._hidden[1], keep=True)
        if adds_up(before, layer, self._batches[0], self._hidden[0].read(0)):
            start = 0
            for number, batch in enumerate(self._batches):
                place = slice(start, start := start + batch.numel())
                record.lacks(place, *(hidden.written(number).flatten(0, -2) for hidden in self._hidden))
        stored = _stored(after, layer, module)
        dtypes = {name: how.dtype for name, how in stored.items()}
        fit = refit(module, record.seen(self._kinds.to(after.device)), dtypes)
        given = record.given or 1.0
        self.fits[layer] = replace(fit, before=fit.before / given, after=fit.after / given)
        record.close()
        self._watched(after, layer, Watch(), self._hidden[1], keep=True)
        if fit.damping is not None:
            weights = {
                name: part for key, how in stored.items() for name, part in how.split(getattr(module, key)).items()
            }
            with replacing(self._work / layer_file(layer)) as temporary:
                write_tensors(temporary, weights, {"format": "pt"})

    def _watched(self, runner: LayerRunner, layer: int, watch: Watch, hidden: HiddenStates, *, keep: bool) -> Any:
        """The experts module that ran. Raises SixfoldError where not every token passed through it."""
        run_layer(runner, layer, self._batches, hidden, watch, self._advance, keep=keep)
        if watch.module is None or watch.seen != self._tokens:
            raise SixfoldError(
                f"transformers runs the experts of layer {layer} in a way that cannot be watched",
                "prune without --heal",
            )
        return watch.module

    @property
    def kinds(self) -> int:
        return int(self._kinds.max()) + 1


class _Record:
    """What one layer's experts gave before and read now, of all tokens: on the GPU where it has room, else in files
    that are mapped into memory. given: norm of all that the original's experts gave."""

    def __init__(self, tokens: int, work: Path, device: torch.device) -> None:
        self._tokens, self._work, self._device = tokens, work, device
        self._missing = self._inputs = torch.empty(0)
        self._index: list[torch.Tensor] = []
        self._gates: list[torch.Tensor] = []
        self.given = 0.0

    def gave(
        self, place: slice, hidden: torch.Tensor, index: torch.Tensor, gates: torch.Tensor, out: torch.Tensor
    ) -> None:
        if not len(self._missing):
            self._missing = self._rows("missing.bin", out.shape[1], torch.float32)
        self._missing[place] = out.to(self._missing.device, torch.float32)
        self.given = (self.given**2 + float(out.double().square().sum())) ** 0.5

    def reads(
        self, place: slice, hidden: torch.Tensor, index: torch.Tensor, gates: torch.Tensor, out: torch.Tensor
    ) -> None:
        if not len(self._inputs):
            self._inputs = self._rows("inputs.bin", hidden.shape[1], hidden.dtype)
        self._inputs[place] = hidden.to(self._inputs.device)
        self._missing[place] -= out.to(self._missing.device, torch.float32)
        self._index.append(index.clone())
        self._gates.append(gates.float())

    def lacks(self, place: slice, original: torch.Tensor, pruned: torch.Tensor) -> None:
        """What is missing from all that the layer gives, in place of what is missing from what its experts give."""
        rows = self._missing[place]
        rows.copy_(original.to(rows.device, torch.float32) - pruned.to(rows.device, torch.float32))

    def seen(self, kinds: torch.Tensor) -> Seen:
        return Seen(self._inputs, torch.cat(self._index), torch.cat(self._gates), self._missing, kinds)

    def close(self) -> None:
        self._missing = self._inputs = torch.empty(0)

    def _rows(self, name: str, width: int, dtype: torch.dtype) -> torch.Tensor:
        nbytes = self._tokens * width * dtype.itemsize
        if self._device.type == "cuda" and nbytes < _SHARE * torch.cuda.mem_get_info(self._device)[0]:
            return torch.empty((self._tokens, width), dtype=dtype, device=self._device)
        return mapped(self._work / name, (self._tokens, width), dtype)


@dataclass(frozen=True)
class _Stored:
    """How one parameter of a layer's experts is stored. dtype: of the checkpoint's tensors."""

    pieces: tuple[Piece, ...]
    dtype: torch.dtype

    def split(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        """By on-disk name. values: transformers' parameter, [experts, ...]."""
        values = values.to("cpu", self.dtype)
        return {piece.name: piece.within(values).contiguous() for piece in self.pieces}


def _stored(runner: LayerRunner, layer: int, module: Any) -> dict[str, _Stored]:
    """By the parameter's own name: of the down projections, and of the first projections where they can be written.

    Raises SixfoldError where not even the down projections are made of tensors as they are.
    """
    (own,) = (name for name, found in runner.model.named_modules() if found is module)
    tensors = runner.checkpoint.tensors
    found = {}
    for name in ("down_proj", first_name(module)):
        (source,) = (s for s in runner.sources_of(layer) if s.parameter == f"{own}.{name}")
        dtypes = {tensors[piece.name].dtype for piece in source.pieces}
        if len(dtypes) == 1 and dtypes <= _TORCH.keys():
            found[name] = _Stored(source.pieces, _TORCH[dtypes.pop()])
        elif name == "down_proj":
            raise SixfoldError(
                f"the checkpoint stores what becomes {source.parameter} in a way that healing does not write",
                "prune without --heal",
            )
    return found
