"""Several runs of one model over the same text, side by side: a decoder layer at a time, each read once.

Runs with the same weights share what was read and dequantized of a layer; the next layer's, or the next artifact's of
the same layer, is read (and compared with the source's, where it is to be) while one is run. So memory holds three
layers in float32, one as the source has it, and the hidden states of every run, however many layers there are. A GPU
that has no room for so many reads one when the last was run.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch

from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.runner.available_memory import unused_on
from sixfold.runner.causal_attention import fast_causal_attention
from sixfold.runner.experts import experts_run_by
from sixfold.runner.freed_memory import kept_heap
from sixfold.runner.layer_runner import LayerRunner, batches_of
from sixfold.runner.layer_weights import HostBuffers, ReadInto
from sixfold.texts.held_out_text import Windows
from verification.divergence.activations import RoundedInputs, Rule, roundings_of
from verification.divergence.cores import on_cores, shares
from verification.divergence.expert_inputs import ExpertInputs, experts_at_once
from verification.divergence.reading_ahead import reading_ahead
from verification.reading.gguf.own import never_a_tensor
from verification.reading.weights import Compared, OnDevice, Prepared, Weights, read_on
from verification.running import giving_up, running

STRIDE = 16
"""Of the hidden states between layers, those of every so many tokens are looked at."""

_TOKENS = 1024
_TOKENS_ON_GPU = 1 << 15
"""Of a batch: on a GPU more, for fewer and larger products with each expert."""

_AHEAD = 4.5
_BESIDE = 0.5
"""Layers in float32 that have to fit into a GPU's unused memory, beside so much of all that it has, where one is read
while another is run: 108 GB of an H200's for 9.2 GB of a layer. The rest is for stacks of weights that are compared,
for what all variants share of a layer, and for what a layer computes, all of which follow the GPU's size."""

_SHARE_OF_GPU = 0.1
"""Of its unused memory, for hidden states between layers; three layers in float32 are there as well."""


@dataclass(frozen=True)
class Run:
    """weights: in place of the source's; None for its own, read from the checkpoint. rules: how the inputs of Linears
    are rounded, by on-disk tensor name; {} for as they are."""

    weights: Weights | None = None
    rules: Mapping[str, Rule] = field(default_factory=dict)

    @property
    def is_source(self) -> bool:
        """Whether it is how the source itself runs."""
        return self.weights is None and not self.rules


class Here(threading.local):
    """How this thread's run rounds its inputs."""

    rounding: RoundedInputs | None = None


@dataclass(eq=False)
class Lane:
    """One run on its way. number: of it among those of its group. roundings: of its inputs, one for each share of the
    batches that is run beside others; () for as they are. hidden: of each batch behind the last layer it passed, on the
    CPU or the GPU. states: at its end, float32 [tokens, hidden] in the order of the windows. failed: why it went no
    further."""

    group: "Group"
    number: int
    roundings: Sequence[RoundedInputs]
    hidden: list[torch.Tensor]
    states: torch.Tensor
    failed: SixfoldError | None = None

    @property
    def is_source(self) -> bool:
        """Whether it is, to where it has come, how the source itself runs."""
        return not self.roundings and self.group.exact

    @property
    def moved_inputs(self) -> Mapping[str, float]:
        """How far rounding moved what each product has read, relative, by tensor name."""
        return self.roundings[0].errors if self.roundings else {}

    def move(self, layer: int, batches: Sequence[torch.Tensor], here: Here) -> None:
        runner = self.group.runner
        number = shares(len(batches)) if runner.keeps_nothing else 1
        if self.roundings:
            number = min(number, len(self.roundings))

        def share(first: int) -> None:
            with self.rounded(layer, first) as here.rounding:
                for place in range(first, len(batches), number):
                    hidden = self.hidden[place]
                    moved = runner.run(layer, batches[place], hidden.to(runner.device), lane=self.number)
                    self.hidden[place] = moved.to(hidden.device)

        on_cores([partial(share, first) for first in range(number)])
        if self.roundings:
            self.roundings[0].add(self.roundings[1:number])

    @contextmanager
    def rounded(self, layer: int | None, share: int = 0) -> Iterator[RoundedInputs | None]:
        """While open, products of this thread round their inputs. layer: whose weights are in place; None for what is
        outside."""
        if not self.roundings:
            yield None
            return
        rounding = self.roundings[share]
        rounding.place(layer)
        with rounding:
            yield rounding

    def every(self, stride: int) -> torch.Tensor:
        """The hidden states of every so many tokens, the first one's first, in the order of the windows."""
        found, place = [], 0
        for hidden in self.hidden:
            flat = hidden.flatten(0, 1)
            found.append(flat[-place % stride :: stride])
            place += len(flat)
        return torch.cat(found)

    def fail(self, error: SixfoldError) -> None:
        self.failed = error

    def arrive(self) -> None:
        if self.failed is None:
            self.states = torch.cat([hidden.flatten(0, 1) for hidden in self.hidden])
        self.hidden = []


@dataclass(eq=False)
class Group:
    """Runs with the same weights. runner: with these in place of the source's. exact: whether all weights so far are
    known to be the source's."""

    runner: LayerRunner
    weights: Weights | None
    lanes: list[Lane] = field(default_factory=list)
    exact: bool = True

    def prepare(self, layer: int | None) -> None:
        """Before a layer is read, or what is outside of them."""
        if not isinstance(self.weights, Prepared):
            self.exact = False
            return
        pieces = (piece.name for source in self.runner.sources_of(layer) for piece in source.pieces)
        self.weights.prepare(layer, set(pieces))
        self.exact = self.exact and self.weights.is_source(layer)
        if isinstance(self.weights, Compared) and self.weights.failed:
            self.fail(SixfoldError("its weights are not the source's", "see what else was found"))

    @property
    def has_sources_head(self) -> bool:
        """Whether what is outside of the layers is known to be as the source has it."""
        return isinstance(self.weights, Prepared) and self.weights.is_source(None)

    def read(self, layer: int) -> dict[str, torch.Tensor] | None:
        """Values of a layer; None where nothing is run any more."""
        self.prepare(layer)
        return None if self.failed else self.runner.read_layer(layer)

    def fail(self, error: SixfoldError) -> None:
        for lane in self.lanes:
            lane.fail(error)

    @property
    def failed(self) -> bool:
        return all(lane.failed is not None for lane in self.lanes)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def walk(
    source: Source,
    runs: Sequence[Run],
    windows: Windows,
    observe: Callable[[int, int, torch.Tensor], None],
    progress: Progress,
    what: str,
    own: Run | None = None,
) -> list[Lane]:
    """One lane for each run, at the end of its last layer.

    observe: gets the number of a run, that of a layer, and every STRIDEth of the run's hidden states behind it.
    own: the one of the runs, the first, that is the source's; those whose weights are the source's go with it.
    A run that fails, or whose weights cannot be read, is given up; its lane says why. Raises SixfoldError where
    transformers does not know the model, or does not run it a layer at a time; SourceNotRunError for all that fails in
    the source's run.
    """
    with running(source) if own is not None else nullcontext():
        lanes, groups = _lanes(source, runs)
    leader = lanes[0] if own is not None else None
    here = Here()
    count = len(groups[0].runner.layers)
    batches = batches_of(windows.ids, _TOKENS_ON_GPU if device().type == "cuda" else _TOKENS)

    def checked(group: Group) -> AbstractContextManager[None]:
        """Errors of a group, as they are told."""
        return running(source) if leader is not None and group is leader.group else giving_up(group.fail)

    def inputs_of(parameter: torch.Tensor) -> ExpertInputs | None:
        return None if here.rounding is None else here.rounding.of_stack(parameter)

    with (
        torch.inference_mode(),
        kept_heap(),
        fast_causal_attention(device()),
        _experts_run_at_once(groups, inputs_of),
        progress(what, count * len(groups), "layers") as advance,
    ):
        for group in groups:
            with checked(group):
                group.prepare(None)
                with group.runner.outside():
                    started = [group.runner.start(batch) for batch in batches]
                    kept_on = _kept_on(len(runs) * sum(hidden.nbytes for hidden in started))
                    first = [hidden.to(kept_on) for hidden in started]
            for lane in group.lanes:
                if lane.failed is None:
                    lane.hidden = list(first)
        for layer, group in _placed(groups, count, checked, ahead=_reads_ahead(groups[0].runner)):
            for lane in (lane for lane in group.lanes if lane.failed is None):
                if leader is not None and lane is not leader and lane.is_source:
                    lane.hidden = list(leader.hidden)
                else:
                    with running(source) if lane is leader else giving_up(lane.fail):
                        lane.move(layer, batches, here)
                if lane.failed is None:
                    observe(lanes.index(lane), layer, lane.every(STRIDE).cpu())
            advance(1)
        for lane in lanes:
            lane.arrive()
    return lanes


def _kept_on(nbytes: int) -> torch.device:
    """Where hidden states of so many bytes are between layers: on the GPU, where they are a small part of it."""
    there = device().type == "cuda" and nbytes < _SHARE_OF_GPU * unused_on(device())
    return device() if there else torch.device("cpu")


def _reads_ahead(runner: LayerRunner) -> bool:
    if device().type == "cpu":
        return True
    layers = [sum(each.nbytes for each in runner.sources_of(layer)) for layer in range(len(runner.layers))]
    beside = _BESIDE * torch.cuda.get_device_properties(device()).total_memory
    return _AHEAD * max(layers) + beside < unused_on(device())


def _lanes(source: Source, runs: Sequence[Run]) -> tuple[list[Lane], list[Group]]:
    buffers = HostBuffers(pinned=device().type == "cuda")
    on_device = HostBuffers(pinned=False, device=device())
    groups: dict[int, Group] = {}
    lanes = []
    for run in runs:
        group = groups.get(id(run.weights))
        if group is None:
            reader = None if run.weights is None else _reader(run.weights, source)
            there = on_device if isinstance(run.weights, OnDevice) else buffers
            runner = LayerRunner(source, dtype=torch.float32, device=device(), read_into=reader, buffers=there)
            group = groups[id(run.weights)] = Group(runner, run.weights)
        lane = Lane(group, len(group.lanes), roundings_of(group.runner, run.rules), [], torch.empty(0))
        group.lanes.append(lane)
        lanes.append(lane)
    return lanes, list(groups.values())


@contextmanager
def _experts_run_at_once(
    groups: Sequence[Group], inputs_of: Callable[[torch.Tensor], ExpertInputs | None]
) -> Iterator[None]:
    """While open, by transformers' shared interface; families without it run one after the other, as rules ask for."""
    with ExitStack() as stack:
        for model in (group.runner.model for group in groups):
            if hasattr(model, "set_experts_implementation"):
                stack.enter_context(experts_run_by(model, experts_at_once(inputs_of)))
        yield


def _reader(weights: Weights, source: Source) -> ReadInto:
    """Numbers that a file states in keys, which are compared there, and what an engine computes, are the source's."""
    held = set(weights.names())

    def read_into(name: str, out: torch.Tensor) -> None:
        if name not in held and never_a_tensor(name):
            source.checkpoint.read_into(name, out)
        else:
            out.copy_(read_on(weights, out.device, name).reshape(out.shape))

    return read_into


def _placed(
    groups: Sequence[Group], layers: int, checked: Callable[[Group], AbstractContextManager[None]], *, ahead: bool
) -> Iterator[tuple[int, Group]]:
    """Every layer with the weights of every group in turn, in place until the next is asked for. A group that is run no
    more has its weights compared to the end. ahead: whether the next are read meanwhile."""
    steps = [(layer, group) for layer in range(layers) for group in groups]
    with reading_ahead() as reader:
        following: Future[dict[str, torch.Tensor] | None] | None = None
        for (layer, group), after in zip(steps, [*steps[1:], None], strict=True):
            given, following = following, None
            with ExitStack() as stack:
                with checked(group):
                    values = (given or reader.submit(group.read, layer)).result()
                    if values is not None:
                        stack.enter_context(group.runner.placed(layer, values))
                if ahead and after is not None:
                    following = reader.submit(after[1].read, after[0])
                if not group.failed:
                    del values
                    yield layer, group
                    reader.settle()
