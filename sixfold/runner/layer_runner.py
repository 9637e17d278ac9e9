"""The layer runner: transformers' own model, one decoder layer in memory at a time.

The model is built on the meta device. A layer's weights are read while the layer before it runs, given to its module,
and taken away again when all batches have passed; what is outside of the layers (embeddings, the last norm, the head)
is there only while a pass begins and ends. Calibration runs it in BF16, verification in float32 on an artifact.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from sixfold.errors import SixfoldError
from sixfold.model.decoder import decoder_of
from sixfold.model.layer_calls import RETURNED, Call, Calls, Handed, located, record_calls, same
from sixfold.model.meta_model import meta_model
from sixfold.model.module_map import map_tensors, tied_parameters
from sixfold.model.source import Source
from sixfold.runner.layer_weights import (
    HostBuffers,
    ParameterSource,
    ReadInto,
    attach,
    check_attached,
    detach,
    parameter_sources,
    read_parameters,
)
from sixfold.runner.process_group import ALONE, Team


class LayerRunner:
    """Runs a checkpoint's model layer by layer.

    dtype: of weights and activations; correction biases, and what transformers insists on, stay float32.
    read_into: where weights come from, the checkpoint itself if None; called from several threads.
    ahead: whether the next layer is read while one runs (two layers in host memory instead of one).
    team: the processes that run the same layers on other batches; the leader reads for all.
    buffers: memory that layers are read into, where several runners share it, one layer after the other.
    Raises SixfoldError where transformers does not know the model or runs it in a way that has no separate layers.
    """

    def __init__(
        self,
        source: Source,
        *,
        dtype: torch.dtype,
        device: torch.device,
        read_into: ReadInto | None = None,
        ahead: bool = True,
        team: Team = ALONE,
        buffers: HostBuffers | None = None,
    ) -> None:
        self.device = device
        self.dtype = dtype
        self.ahead = ahead
        self.team = team
        # Where all experts of a layer are one tensor, it is read at once.
        checkpoint = source.checkpoint.as_stored if read_into is None else source.checkpoint
        self.checkpoint = checkpoint
        self.model: Any = meta_model(checkpoint, dtype=dtype).eval()
        placements, _ = map_tensors(self.model, checkpoint)
        strict = set(getattr(self.model, "_keep_in_fp32_modules_strict", None) or ())
        biases = {name.rsplit(".", 1)[-1] for name in source.architecture.correction_biases}
        self._sources = parameter_sources(self.model, placements, checkpoint, dtype, strict | biases)
        self._read_into = read_into or checkpoint.read_into
        self._buffers = buffers or HostBuffers(pinned=device.type == "cuda")
        self._tells_tokens = False
        self._calls: dict[tuple[int, ...], tuple[Call, ...]] = {}
        self._handed: dict[tuple[int, int, bytes], Handed] = {}
        self._leading: int | None = None
        self._lengths: tuple[int, ...] = RETURNED
        decoder = decoder_of(self.model)
        tied = tied_parameters(self.model)
        self._sources = {name: s for name, s in self._sources.items() if name not in tied and decoder.runs(name)}
        self.layer_names = _layer_names(self.model)
        self.layers = [self.model.get_submodule(name) for name in self.layer_names]
        _compute_buffers(self.model, device)

    def sources_of(self, layer: int | None) -> tuple[ParameterSource, ...]:
        """What the parameters of one decoder layer are made of; of all that is outside of the layers for None."""
        if layer is not None:
            prefix = self.layer_names[layer] + "."
            return tuple(s for name, s in self._sources.items() if name.startswith(prefix))
        prefixes = tuple(name + "." for name in self.layer_names)
        return tuple(s for name, s in self._sources.items() if not name.startswith(prefixes))

    @contextmanager
    def outside(self) -> Iterator[None]:
        """While open, what is outside of the layers has its weights; `start` and `finish` need it.

        They stay after `start` has met a family that tells its layers the tokens, as `run` needs them then, too.
        """
        sources = self.sources_of(None)
        if not self._tells_tokens:
            self._attach(sources, self._read(sources))
            self.model.tie_weights()
        try:
            yield
        finally:
            if not self._tells_tokens:
                detach(self.model, [source.parameter for source in sources])
                self.model.tie_weights()
                self._buffers.clear()

    def start(self, ids: torch.Tensor) -> torch.Tensor:
        """What the first layer reads of a batch (int64 [samples, length], no padding): [samples, length, hidden], with
        streams before the hidden dimension in families that have several."""
        ids = ids.to(self.device)
        calls = self._record(ids)
        if (shape := tuple(ids.shape)) not in self._calls:
            # Masks and positions depend on a batch's shape alone, unless a family tells its layers the tokens.
            others = self._record(torch.where(ids > 0, ids - 1, 1))
            self._tells_tokens |= not same(calls.layers, others.layers)
            self._calls[shape] = calls.layers
        shape = tuple(calls.hidden.shape)
        self._leading = next(n for n in range(len(shape)) if shape[n : n + 2] == tuple(ids.shape))
        return self._tokens_first(calls.hidden)

    @property
    def hands_on(self) -> bool:
        """Whether layers give the next one more than hidden states, so that a run can only begin at the first."""
        return any(call.takes or call.states for calls in self._calls.values() for call in calls)

    @property
    def keeps_nothing(self) -> bool:
        """Whether `run` leaves nothing behind, so that several threads may run batches of a layer side by side."""
        return not (self.hands_on or self._tells_tokens)

    def run(
        self,
        layer: int,
        ids: torch.Tensor,
        hidden: torch.Tensor,
        behind: "LayerRunner | None" = None,
        lane: int = 0,
    ) -> torch.Tensor:
        """The output for the batch `ids`, of whose shape `start` has seen one, of a decoder layer that is in place.

        behind: the runner whose layer before gave `hidden`, if it was another one. lane: which of several runs of the
        same tokens, side by side.
        """
        calls = self._record(ids.to(self.device)).layers if self._tells_tokens else self._calls[tuple(ids.shape)]
        key = ids.cpu().numpy().tobytes() if self.hands_on else b""
        handed = (behind or self)._handed.get((layer - 1, lane, key), Handed())
        following = calls[layer + 1] if layer + 1 < len(calls) else None
        out, left = calls[layer](self.layers[layer], self._as_model(hidden), handed, following)
        if self.hands_on:
            self._handed = {at: values for at, values in self._handed.items() if at[0] >= layer - 1}
            self._handed[layer, lane, key] = left
        return self._tokens_first(out)

    def _tokens_first(self, hidden: torch.Tensor) -> torch.Tensor:
        """[samples, length, ...]: some families put streams of their own before the samples."""
        count = self._leading or 0
        return hidden.movedim(tuple(range(count)), tuple(range(2, 2 + count)))

    def _as_model(self, hidden: torch.Tensor) -> torch.Tensor:
        count = self._leading or 0
        return hidden.movedim(tuple(range(2, 2 + count)), tuple(range(count)))

    def _record(self, ids: torch.Tensor) -> Calls:
        with without_logits(self.model):
            calls = record_calls(self.model, self.layers, ids, lengths=self._lengths)
        self._lengths = (calls.length,)
        return calls

    def finish(self, ids: torch.Tensor, hidden: torch.Tensor) -> Any:
        """What the whole model returns for a batch, from the last layer's output."""
        if self._leading is None:
            self.start(ids)
        return record_calls(
            self.model, self.layers, ids.to(self.device), last=self._as_model(hidden), lengths=self._lengths
        ).output

    def each_layer(self, begin: int = 0) -> Iterator[tuple[int, nn.Module]]:
        """Every decoder layer from `begin` on with its weights in place, until the next one is asked for."""
        with ThreadPoolExecutor(1) as reader:
            following: Future[dict[str, torch.Tensor]] | None = None
            for number in range(begin, len(self.layers)):
                host = following.result() if following is not None else self.read_layer(number)
                with self.placed(number, host):
                    following = None
                    if self.ahead and number + 1 < len(self.layers):
                        following = reader.submit(self.read_layer, number + 1)
                    yield number, self.layers[number]
                del host
        self._buffers.clear()

    def read_layer(self, number: int) -> dict[str, torch.Tensor]:
        """Values of a decoder layer's parameters, for `placed`."""
        return self._read(self.sources_of(number))

    @contextmanager
    def placed(self, number: int, values: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """While open, a decoder layer has the values that `read_layer` gave; their memory is used again after it."""
        sources = self.sources_of(number)
        self._attach(sources, values)
        check_attached(self.model, self.layer_names[number] + ".")
        try:
            yield
        finally:
            detach(self.model, [source.parameter for source in sources])
            self._buffers.give_back(values.values())

    @contextmanager
    def whole(self, before: Callable[[int | None], None]) -> Iterator[Any]:
        """While open, everything has its weights; gives the model, to be run by its own forward.

        before: is told which layer is read next, None for what is outside of them.
        """
        before(None)
        with self.outside(), located(self.device), ExitStack() as stack:
            for number in range(len(self.layers)):
                before(number)
                stack.enter_context(self.placed(number, self.read_layer(number)))
            yield self.model

    def _read(self, sources: Sequence[ParameterSource]) -> dict[str, torch.Tensor]:
        """On the host; nothing where another process reads."""
        return read_parameters(sources, self._read_into, self._buffers, self.model) if self.team.leads else {}

    def _attach(self, sources: Sequence[ParameterSource], host: Mapping[str, torch.Tensor]) -> None:
        values = {
            s.parameter: host[s.parameter].to(self.device, non_blocking=True)
            if self.team.leads
            else torch.empty(s.shape, dtype=s.dtype, device=self.device)
            for s in sources
        }
        self.team.share(values[name] for name in sorted(values))
        attach(self.model, values)


@contextmanager
def without_logits(model: Any) -> Iterator[None]:
    """While open, the head is called and computes nothing: a row of the vocabulary for every token takes more time and
    memory than all the rest outside of the layers."""
    head = model.get_output_embeddings()

    def empty(hidden: torch.Tensor) -> torch.Tensor:
        return hidden.new_zeros((*hidden.shape[:-1], 1))

    head.forward = empty
    try:
        yield
    finally:
        del head.forward


def _layer_names(model: nn.Module) -> tuple[str, ...]:
    """Module names of the decoder layers, in order."""
    found = decoder_of(model).layers
    if not found:
        raise SixfoldError(
            f"{type(model).__name__} has no list of its decoder layers, so they cannot be run one at a time",
            "choose variants that need no calibration",
        )
    return found


def _compute_buffers(model: Any, device: torch.device) -> None:
    """Buffers that no checkpoint holds, such as rotary frequencies, get the values that transformers gives them."""
    for name, buffer in model.named_non_persistent_buffers():
        attach(model, {name: torch.empty_like(buffer, device=device)})
    model.initialize_weights()  # parameters have no memory yet, so that only the buffers change


def batches_of(ids: Sequence[torch.Tensor], tokens: int) -> list[torch.Tensor]:
    """Samples (int64 [length] each) side by side, at most `tokens` together and at least one: [samples, length].

    Only neighbors of equal length share a batch, so that there is no padding; sort by length before, where lengths
    differ.
    """
    batches: list[list[torch.Tensor]] = []
    for sample in ids:
        last = batches[-1] if batches else []
        if last and len(last[0]) == len(sample) and (len(last) + 1) * len(sample) <= tokens:
            last.append(sample)
        else:
            batches.append([sample])
    return [torch.stack(batch) for batch in batches]
