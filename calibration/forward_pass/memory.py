"""How much memory a pass needs, computed before it begins, and which devices it runs on within the limits."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from calibration.forward_pass.batches import BATCH_TOKENS
from calibration.forward_pass.layer_files import HIDDEN_FILES
from calibration.forward_pass.layer_pass import observed_linears
from sixfold.errors import SixfoldError
from sixfold.model.latent_attention import latent_linears
from sixfold.model.meta_model import transformers_config
from sixfold.model.source import Source
from sixfold.recipes.recipe import Calibration
from sixfold.runner.available_memory import Allowed, available_memory
from sixfold.runner.hidden_states import nbytes as hidden_nbytes
from sixfold.sizes import size
from sixfold.statistics.moments import packed_nbytes
from sixfold.statistics.statistics import heads_bytes, site_bytes

_PROCESS = 450_000_000
"""Anonymous memory of the interpreter, PyTorch and transformers, and of what a checkpoint's description takes."""
_CONTEXT = 1_000_000_000
"""Device memory of CUDA's context, kernels and library workspaces."""


@dataclass(frozen=True)
class PassMemory:
    """Bytes. host: anonymous memory of the process at its peak. device: of each GPU, 0 without one. disk: hidden states
    in the work folder, which the page cache keeps in what memory is left. layer: of the largest layer's weights."""

    host: int
    device: int
    disk: int
    layer: int


@dataclass(frozen=True)
class Resources:
    """What a pass runs on. device: "cpu" or "cuda". processes: one per GPU. ahead: whether the next layer is read
    while one runs."""

    device: str
    processes: int
    ahead: bool
    memory: PassMemory


def predict(source: Source, profile: Calibration, *, on_gpu: bool, ahead: bool) -> PassMemory:
    """From shapes alone: the largest layer's weights (twice with `ahead`), its statistics, one batch's activations."""
    layer, outside = _weights(source)
    tokens = min(max(BATCH_TOKENS, profile.length), profile.samples * profile.length)
    statistics = _statistics(source, profile)
    # What a batch needs at once: inputs and outputs of the widest part, and the same in float32 on the CPU.
    activations = tokens * _widest(source) * (2 if on_gpu else 6)
    width = transformers_config(source.checkpoint.config).get_text_config().hidden_size
    shape = (profile.samples, profile.length, int(width))
    work = max(layer, outside) + statistics + activations
    read = (2 if ahead else 1) * layer
    return PassMemory(
        host=_PROCESS + (max(read, outside) + statistics if on_gpu else max(read - layer, 0) + work),
        device=_CONTEXT + work if on_gpu else 0,
        disk=hidden_nbytes([shape], torch.bfloat16, HIDDEN_FILES),
        layer=layer,
    )


def statistics_bytes(source: Source, profiles: Collection[Calibration]) -> int:
    """Tensor data of the finished statistics of each profile; see sixfold.statistics.statistics for the layout. An
    importance matrix is kept, and its sums stand in the statistics once more."""
    sites = {(li.site, li.expert): li.in_features for li in source.architecture.linears}
    heads = sum(heads_bytes(latent) for latent in latent_linears(source).values())
    total = 0
    for profile in set(profiles):
        if profile.imatrix is not None:
            total += 2 * Path(profile.imatrix).expanduser().stat().st_size
        else:
            each = (site_bytes(channels, profile.sample_rows, moments=profile.moments) for channels in sites.values())
            total += heads + sum(each)
    return total


def disk_bytes(source: Source, profile: Calibration) -> int:
    """What a calibration takes in its folder at most: the statistics, and meanwhile the hidden states."""
    meanwhile = predict(source, profile, on_gpu=False, ahead=False).disk if profile.imatrix is None else 0
    return statistics_bytes(source, [profile]) + meanwhile


def resources(source: Source, profile: Calibration, allowed: Allowed, *, elsewhere: int = 0) -> Resources:
    """What the pass runs on: every visible GPU, or the CPU. Raises SixfoldError, naming what is needed, where the
    memory is too little. elsewhere: GPUs of other machines to run on instead; a scheduler finds those with the memory.
    """
    if elsewhere:
        return Resources("cuda", elsewhere, True, predict(source, profile, on_gpu=True, ahead=True))
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    host = allowed.host if allowed.host is not None else available_memory()
    choices = [predict(source, profile, on_gpu=gpus > 0, ahead=ahead) for ahead in (True, False)]
    if gpus:
        free = min(torch.cuda.mem_get_info(n)[0] for n in range(gpus))
        device = allowed.device if allowed.device is not None else free
        if choices[0].device > device:
            raise SixfoldError(
                f"calibrating {source.checkpoint.name} needs {size(choices[0].device)} of device memory (one layer has"
                f" {size(choices[0].layer)} of weights), {_said(device, allowed.device)}",
                f"use a larger GPU, hide it (CUDA_VISIBLE_DEVICES=) to run on the CPU{_without_moments(profile)}",
            )
    for ahead, needed in zip((True, False), choices, strict=True):
        if host is None or needed.host <= host:
            return Resources("cuda" if gpus else "cpu", max(gpus, 1), ahead, needed)
    raise SixfoldError(
        f"calibrating {source.checkpoint.name} needs {size(choices[1].host)} of memory (one layer has"
        f" {size(choices[1].layer)} of weights), {_said(host, allowed.host)}",
        f"use a larger machine, or formats that need no calibration (bf16, fp8, gguf-q8_0){_without_moments(profile)}",
    )


def _without_moments(profile: Calibration) -> str:
    return ", or set calibration.moments=false with rounding=nearest" if profile.moments else ""


def _said(available: int | None, allowed: int | None) -> str:
    return f"{size(available or 0)} {'are allowed' if allowed is not None else 'are available'}"


def _weights(source: Source) -> tuple[int, int]:
    """Bytes in BF16 of the largest decoder layer, and of all that is outside of the layers."""
    layers: Counter[str] = Counter()
    unrun = {*source.architecture.not_run, *source.architecture.towers}
    for name, tensor in source.checkpoint.tensors.items():
        if name not in unrun:
            found = re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", name)
            layers[found[1] if found else ""] += 2 * torch.Size(tensor.shape).numel()
    outside = layers.pop("", 0)
    return max(layers.values(), default=outside), outside


def _statistics(source: Source, profile: Calibration) -> int:
    """Bytes of one layer's accumulators and of the finished statistics beside them, for the largest layer."""
    largest = 0
    latents = latent_linears(source)
    for layer in range(source.architecture.layers):
        linears = observed_linears(source, layer)
        sites = {(li.site, li.expert): li.in_features for li in linears}
        heads = sum(heads_bytes(latents[li.name]) for li in linears if li.name in latents)
        sums = 3 * (
            heads + sum(site_bytes(channels, profile.sample_rows, moments=False) for channels in sites.values())
        )
        largest = max(largest, sums + (_moments(list(sites.values())) if profile.moments else 0))
    return largest


def _moments(channels: Sequence[int]) -> int:
    """Bytes of sums in float32, of what is stored of them (by expert, stacked, as bytes and as a file), and of the
    largest while it is packed."""
    summed = sum(4 * c * c + 4 * packed_nbytes(c) for c in channels)
    return summed + 16 * max(channels, default=0) ** 2


def _widest(source: Source) -> int:
    """Channels that are alive per token where most are: a layer's attention, or its MLP's or its experts' products."""
    top_k = source.architecture.experts_per_token or 1
    latents = latent_linears(source)
    widest = 0
    for layer in range(source.architecture.layers):
        roles: Counter[str] = Counter()
        seen: set[str] = set()
        for linear in observed_linears(source, layer):
            if linear.role == "expert" and linear.part in seen:
                continue
            seen.add(linear.part if linear.role == "expert" else linear.name)
            channels = linear.in_features + linear.out_features
            if linear.name in latents:
                channels += linear.out_features  # what attention gathers of latents, some heads at a time
            roles[linear.role] += channels * (top_k if linear.role == "expert" else 1)
        widest = max([widest, *roles.values()])  # a layer may have none that is observed, as Mamba's
    return widest
