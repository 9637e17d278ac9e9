"""The pass itself: all tokens through one decoder layer after the other, each layer's statistics written behind it.

Finished work is kept in a work folder: the finished layers' files, the hidden states that the next layer reads, and
`progress.json`, which is written last. A killed pass resumes after its last finished layer and ends in the same bytes,
since batches and their order are part of the calibration's definition.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from calibration.forward_pass.batches import Batches
from calibration.forward_pass.coverage import starved_of
from calibration.forward_pass.layer_files import HIDDEN_FILES, layer_files
from calibration.forward_pass.observation import Observation
from calibration.forward_pass.observe import observed
from calibration.forward_pass.starved_experts import widened
from calibration.forward_pass.unfinished import Reached, read_reached
from sixfold.errors import SixfoldError
from sixfold.model.architecture import Linear
from sixfold.model.latent_attention import latent_linears
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.recipes.recipe import Calibration
from sixfold.runner.bf16_products import fast_products
from sixfold.runner.causal_attention import fast_causal_attention
from sixfold.runner.device_transfer import transfer
from sixfold.runner.freed_memory import kept_heap
from sixfold.runner.hidden_states import HiddenStates
from sixfold.runner.layer_runner import LayerRunner, without_logits
from sixfold.runner.process_group import ALONE, Team
from sixfold.statistics.statistics import layer_file


def dtype_of(source: Source) -> torch.dtype:
    """What a pass computes in: BF16, but for families whose forward needs float32."""
    return torch.float32 if source.architecture.in_float32 else torch.bfloat16


def observed_linears(source: Source, layer: int | None) -> list[Linear]:
    """Linears outside attention and MLP are never quantized, and not every model calls them as a module."""
    return [linear for linear in source.architecture.linears if linear.layer == layer and linear.role != "other"]


def run_pass(
    source: Source,
    batches: Batches,
    profile: Calibration,
    work: Path,
    *,
    key: str,
    device: torch.device,
    progress: Progress,
    ahead: bool = True,
    team: Team = ALONE,
) -> Reached:
    """Every token through the model, in BF16 where the family allows it; one statistics file per layer, and one for
    what is behind them, in `work`.

    key: digest of all that decides the statistics; what another key left in `work` is not used. ahead: whether the
    next layer is read while one runs. Raises SixfoldError where the ids are not this model's, or its experts were not
    run through transformers' interface.
    """
    left = team.tell(read_reached(work, key) if team.leads else None)
    if left is not None and layer_file(None) in left.files:
        return left  # all that was missing is that it be put in place
    runner = LayerRunner(source, dtype=dtype_of(source), device=device, ahead=ahead, team=team)
    _check_ids(runner, batches, source)
    mine = [number for number in range(len(batches.ids)) if team.owns(number)]
    checksum = partial(_checksum, mine, device, team)
    latents = latent_linears(source)
    each = sum(batches.ids[number].numel() for number in mine)
    with (
        torch.inference_mode(),
        fast_products(device),
        fast_causal_attention(device),
        kept_heap(),
        progress("calibrating", each * (len(runner.layers) + 1), "tokens") as advance,
        ExitStack() as running,
    ):
        with runner.outside():
            hidden, done = _begin(runner, batches, work, key, left, mine, checksum)
        advance(each * len(done.files))
        files = running.enter_context(layer_files(work, done, device, ahead=ahead)) if team.leads else None

        def observe(layer: int | None, run: Callable[[int, torch.Tensor], torch.Tensor]) -> None:
            observation = Observation(
                observed_linears(source, layer),
                ranks=batches.ranks,
                rows=profile.sample_rows,
                device=device,
                counted=batches.counted,
                stacks=[stack for stack in source.architecture.stacks if stack.layer == layer],
                latents=latents,
                moments=profile.moments,
                length=profile.length,
            )
            with observed(runner.model, observation), transfer(hidden, mine, device) as moving:
                for number, values in moving:
                    observation.start = batches.starts[number]
                    given = run(number, values)
                    if layer is not None:
                        moving.write(number, given)
                    advance(batches.ids[number].numel())
            observation.join(team)
            _check_complete(observation, batches.counted_tokens, source)
            wide = {}
            starved = starved_of(observation.routed(), profile.min_tokens)
            if starved and profile.starved == "all_experts" and team.leads:
                first = partial(run, 0, hidden.read(0).to(device))
                wide = widened(runner.model, observation, starved, profile, first)
            if layer is not None:
                hidden.flip()
            behind = checksum(hidden)
            if files is not None:
                files.done()  # first, so that the sums of two layers are never packed together
                files.write(layer, {**observation.finish(), **wide}, observation.routed(), hidden.turn, behind)

        for layer, _ in runner.each_layer(len(done.files)):
            observe(layer, partial(_step, runner, layer, batches))
        with runner.outside(), without_logits(runner.model):
            observe(None, lambda number, values: runner.finish(batches.ids[number], values))
        done = team.tell(None if files is None else files.done())
    team.wait()
    if team.leads:
        hidden.remove()
    return done


def _step(runner: LayerRunner, layer: int, batches: Batches, number: int, values: torch.Tensor) -> torch.Tensor:
    """The layer's output for a batch."""
    return runner.run(layer, batches.ids[number], values)


def _check_ids(runner: LayerRunner, batches: Batches, source: Source) -> None:
    rows = runner.model.get_input_embeddings().num_embeddings
    largest = max(int(batch.max()) for batch in batches.ids)
    if largest >= rows:
        raise SixfoldError(
            f"the tokenizer of {source.checkpoint.location} makes token {largest}, but the model has {rows} embeddings",
            "use the tokenizer that belongs to the model",
        )


def _begin(
    runner: LayerRunner,
    batches: Batches,
    work: Path,
    key: str,
    left: Reached | None,
    mine: Sequence[int],
    checksum: Callable[[HiddenStates], int],
) -> tuple[HiddenStates, Reached]:
    """The hidden states to continue from: what a killed pass left, or the embeddings of every batch."""
    first: dict[tuple[int, ...], torch.Tensor] = {}
    for batch in batches.ids:  # the runner must have seen every shape
        if tuple(batch.shape) not in first:
            first[tuple(batch.shape)] = runner.start(batch)
    shapes = [(*shape, *first[shape].shape[2:]) for shape in batches.shapes]
    if left is not None and not runner.hands_on:
        hidden = HiddenStates(work, shapes, runner.dtype, left.turn, files=HIDDEN_FILES)
        if checksum(hidden) == left.checksum:
            return hidden, left
    hidden = HiddenStates(work, shapes, runner.dtype, files=HIDDEN_FILES)
    for number in mine:
        hidden.write(number, runner.start(batches.ids[number]))
    hidden.flip()
    return hidden, Reached(key, hidden.turn, checksum(hidden), {}, {})


def _checksum(mine: Sequence[int], device: torch.device, team: Team, hidden: HiddenStates) -> int:
    """Of the batches of all processes: when it is known, every one has written its own."""
    if team.apart:
        hidden.sync()
    total = torch.tensor([hidden.checksum(mine)], device=device)
    team.add(total)
    return int(total)


def _check_complete(observation: Observation, tokens: int, source: Source) -> None:
    """Every plain site that quantizing reads saw each token once; every layer's experts saw some."""
    read = {linear.site for linear in source.architecture.linears if linear.quantizable}
    seen: Mapping[str, int] = {site: int(a.count.sum()) for site, a in observation.sites.items() if site in read}
    for site, count in seen.items():
        if count == 0 or (observation.experts[site] is None and count != tokens):
            raise SixfoldError(
                f"{source.architecture.model_type}: {count} of {tokens} calibration tokens were seen at {site}:"
                " transformers runs this part of the model in a way that cannot be observed",
                "choose variants that need no calibration",
            )
