"""What calibration measured, and how exporters and the pruner read it: the stable interface between the stages.

An *input site* is one activation that feeds one or more Linears (q, k and v read the same site). Sites carry the
on-disk name of the first Linear that reads them, without ".weight"; the experts of a layer share one stacked site
whose name has "*" in place of the expert index ("model.layers.0.block_sparse_moe.experts.*.w1").

One safetensors file per decoder layer, `layer-00000.safetensors` (tensors outside the layers, such as lm_head's input,
are in `layer-other.safetensors`), keys `<site>/<statistic>`; E below is there for stacked sites only:

    count     int64   []  or [E]        tokens seen (routed to the expert), padding left out
    sum_sq    float32 [C] or [E, C]     sum over tokens of x^2, per input channel
    sum_abs   float32 [C] or [E, C]     sum over tokens of |x|
    abs_max   float32 [C] or [E, C]     max over tokens of |x|
    sample    bfloat16 [S, C] or [E, S, C]  rows of x, drawn with the profile's seed; unused rows are zero
    sampled   int64   []  or [E]        how many rows of `sample` are real
    first     float32 [C] or [E, C]     mean of x over the first tokens of all windows; with moments
    first_count  int64 [] or [E]        how many of these tokens `count` counts
    moments   float16 [h, 2h+1] or [E, h, 2h+1]  sum over tokens of x x^T, packed by moments.py; not where the
                                        profile turns it off. Beside it, of stacked sites, what experts have in common
                                        (calibration.common_moments): `moments_common` [h, 2h+1], and `moments_chance`,
                                        float32 [E], how much of what makes an expert's differ from it is chance

A layer with experts has besides, under `<experts>`, the on-disk name of what holds them
("model.layers.0.block_sparse_moe.experts"), or where they are one array on disk the name of transformers' module, the
keys `<experts>/<statistic>` on its experts' outputs. The gate is the value that the model applied; the output is the
expert's, before the gate:

    routed        int64   [E]     tokens routed to the expert
    gate_sum      float64 [E]     sum of their gates
    norm_sum      float64 [E]     sum of the L2 norms of their outputs
    norm_sq_sum   float64 [E]     sum of the squares of these norms
    norm_max      float32 [E]     the largest of these norms
    saliency_sum  float64 [E]     sum of gate * norm: REAP's saliency (arXiv 2510.13999) is saliency_sum / routed
    output_max    float32 [E]     max of |output|
    coactivation  int64   [E, E]  tokens routed to both experts; `routed` on the diagonal

Multi-head latent attention's kv_b_proj has besides, under its name, the sums of squares of what its halves read (see
sixfold.model.latent_attention), per head: of the query without its rotary part, and of the attended latent:

    query_sq        float32 [H, K]   query_count     int64 []
    attended_sq     float32 [H, C]   attended_count  int64 []

Where experts are starved and the profile says "all_experts", the sites of their layer have besides
`<site>/wide_<statistic>` with one row for each of them, in order: of extra tokens, that they were not routed to.

Samples are the same whatever the batches were: every token of the calibration has a rank, drawn with the seed, and a
site keeps the tokens of lowest rank that reached it, in the order of rank.

`manifest.json` beside them, written last and deterministic:

    schema, source, profile, texts, method, versions   what the statistics depend on: a change in any makes them stale
    tokens     what was run: samples, length, ids_sha256, BOS, samples per domain; per text sha256, license, tokens
    sites      {site: {"layer", "experts" (None for a plain site), "linears": names, "*" for the expert index}}
    moe        {experts: {"layer", "experts": how many, "starved": those that saw fewer tokens than the profile's
               min_tokens}}
    coverage   per MoE layer the tokens routed to each expert, the experts that saw none, and those that saw few
    without_statistics   tensors that transformers does not run (multi-token prediction layers)
    files      bytes and sha256 of every statistics file

Statistics that were taken from an importance matrix (`calibration.imatrix`) have `imatrix` in place of `texts`,
`method` and `tokens`: the file's name, sha256, datasets, chunks and entries. They hold `count` and `sum_sq` of every
site, and what kv_b_proj's halves read where the matrix has it, and nothing else. Every weight of the matrix is a site
of its own, and no expert counts as starved.

`run.json` holds what differs from run to run (seconds, device, threads).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from sixfold.artifact.workspace import read_json
from sixfold.errors import SixfoldError
from sixfold.model.latent_attention import HALVES, LatentHeads
from sixfold.statistics.moments import packed_nbytes, unpack

MANIFEST = "manifest.json"
SCHEMA = 5
SITE_STATISTICS = ("count", "sum_sq", "sum_abs", "abs_max", "sample", "sampled")


@dataclass(frozen=True)
class InputStatistics:
    """Statistics of the input of one Linear (C channels); see the module's docstring for the fields."""

    count: int
    sum_sq: torch.Tensor
    sum_abs: torch.Tensor
    abs_max: torch.Tensor
    sample: torch.Tensor


@dataclass(frozen=True)
class HeadInputs:
    """What one half of a kv_b_proj reads: the sum of squares over `count` tokens, float32 [heads, channels]."""

    count: int
    sum_sq: torch.Tensor


@dataclass(frozen=True)
class ExpertStatistics:
    """Outputs of the E experts of one layer; see the module's docstring for the fields.

    name: the on-disk name of what holds them ("model.layers.0.block_sparse_moe.experts").
    """

    name: str
    routed: torch.Tensor
    gate_sum: torch.Tensor
    norm_sum: torch.Tensor
    norm_sq_sum: torch.Tensor
    norm_max: torch.Tensor
    saliency_sum: torch.Tensor
    output_max: torch.Tensor
    coactivation: torch.Tensor


def moe_of(site: str) -> str:
    """Of a stacked site ("...experts.*.w1"), the on-disk name of what holds the experts ("...experts")."""
    return site.partition(".*.")[0]


def starred(linear: str, expert: int | None) -> str:
    """The name of a Linear with "*" for its expert's index; as it is where it is of no expert."""
    if expert is None:
        return linear
    before, _, after = linear.rpartition(f".{expert}.")
    return f"{before}.*.{after}"


def layer_file(layer: int | None) -> str:
    return "layer-other.safetensors" if layer is None else f"layer-{layer:05d}.safetensors"


@dataclass(frozen=True)
class Statistics:
    """A finished calibration folder, opened lazily.

    manifest["sites"] maps each site to {"layer": int | None, "experts": int | None, "linears": [names]}.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        """sha256 over the sha256 of every statistics file: what manifests of exports record."""
        parts = sorted((name, entry["sha256"]) for name, entry in self.manifest["files"].items())
        return sha256(json.dumps(parts).encode()).hexdigest()

    @cached_property
    def site_of(self) -> Mapping[str, tuple[str, int | None]]:
        """On-disk Linear name -> (site, expert index or None)."""
        found: dict[str, tuple[str, int | None]] = {}
        for site, entry in self.manifest["sites"].items():
            for linear in entry["linears"]:
                if entry["experts"] is None:
                    found[linear] = (site, None)
                else:
                    for expert in range(entry["experts"]):
                        found[linear.replace("*", str(expert))] = (site, expert)
        return found

    @property
    def imatrix(self) -> Mapping[str, Any] | None:
        """What the manifest says of the importance matrix that the statistics were taken from; None after a pass."""
        found: Mapping[str, Any] | None = self.manifest.get("imatrix")
        return found

    def _only_a_pass_has(self, what: str) -> None:
        if self.imatrix is not None:
            raise SixfoldError(
                f"the calibration in {self.folder} was taken from the importance matrix {self.imatrix['file']}, which"
                f" holds sums of squares and not {what}",
                "leave calibration.imatrix out, so that a calibration pass is run",
            )

    @property
    def widened(self) -> bool:
        """Whether starved experts were run on extra tokens (see sixfold.statistics.starved_experts)."""
        return bool(self.manifest["profile"]["starved"] == "all_experts")

    def starved_of(self, site: str) -> tuple[int, ...]:
        """Experts of a stacked site that saw too few tokens; () of a plain one."""
        entry = self.manifest["moe"].get(moe_of(site)) if "*" in site else None
        return tuple(entry["starved"]) if entry else ()

    def has(self, linear: str) -> bool:
        return linear in self.site_of

    def place_of(self, linear: str) -> tuple[str, int | None]:
        """(site, expert index or None) of a Linear. Raises SixfoldError where the calibration did not see it."""
        if linear not in self.site_of:
            raise SixfoldError(
                f"the calibration in {self.folder} has no statistics for {linear}",
                "run `sixfold calibrate` again for this checkpoint",
            )
        return self.site_of[linear]

    def site(self, site: str, names: Sequence[str] = SITE_STATISTICS) -> dict[str, torch.Tensor]:
        """Statistics of one site by name, whole (stacked sites keep their expert dimension)."""
        for name in names:
            if name not in ("sum_sq", "count"):
                self._only_a_pass_has(name)
        with safe_open(self.file_of(site), "pt") as f:
            return {name: f.get_tensor(f"{site}/{name}") for name in names}

    def shape_of(self, site: str) -> tuple[int, int]:
        """(experts, channels); 1 expert for a plain site."""
        with safe_open(self.file_of(site), "pt") as f:
            *experts, channels = f.get_slice(f"{site}/sum_sq").get_shape()
        return (experts[0] if experts else 1), channels

    def file_of(self, site: str) -> Path:
        return self.folder / layer_file(self.manifest["sites"][site]["layer"])

    def of_linear(self, linear: str) -> InputStatistics:
        """Statistics of the input of the Linear with this on-disk name (without ".weight")."""
        self._only_a_pass_has("samples")
        site, expert = self.place_of(linear)
        with safe_open(self.file_of(site), "pt") as f:

            def get(key: str) -> torch.Tensor:
                stored = f.get_slice(f"{site}/{key}")
                return stored[expert] if expert is not None else stored[...]

            sampled = int(get("sampled"))
            return InputStatistics(
                int(get("count")), get("sum_sq"), get("sum_abs"), get("abs_max"), get("sample")[:sampled]
            )

    @property
    def has_moments(self) -> bool:
        """Whether second moments were summed."""
        return self.imatrix is None and bool(self.manifest["profile"]["moments"])

    def moments(
        self, site: str, experts: Sequence[int] | None = None, prefix: str = "", device: torch.device | None = None
    ) -> torch.Tensor:
        """Sum over tokens of x x^T: float32 [C, C] of a plain site, [E, C, C] of a stacked one's `experts`.

        prefix: "wide_" for what starved experts read of extra tokens; experts are then counted among the starved.
        device: where they are made whole, None for the CPU.
        """
        with safe_open(self.file_of(site), "pt") as f:
            packed, sum_sq = (f.get_slice(f"{site}/{prefix}{name}") for name in ("moments", "sum_sq"))
            if experts is None:
                return unpack(packed[...].to(device), sum_sq[...].to(device))
            return torch.stack([unpack(packed[e].to(device), sum_sq[e].to(device)) for e in experts])

    def first(self, site: str, expert: int | None = None) -> tuple[torch.Tensor, int]:
        """What first tokens of windows read, float32 [C], and how many of them are counted; of a stacked site, of one
        expert."""
        with safe_open(self.file_of(site), "pt") as f:
            mean, count = (f.get_slice(f"{site}/{name}") for name in ("first", "first_count"))
            return (mean[...], int(count[...])) if expert is None else (mean[expert], int(count[expert]))

    def common_moments(self, site: str, device: torch.device | None = None) -> torch.Tensor:
        """Sum over all experts' tokens of x x^T at a stacked site, as far as they have it in common: float32 [C, C].
        device: as in `moments`."""
        with safe_open(self.file_of(site), "pt") as f:
            packed, sum_sq = f.get_tensor(f"{site}/moments_common"), f.get_tensor(f"{site}/sum_sq").sum(0)
            return unpack(packed.to(device), sum_sq.to(device))

    def head_inputs(self, linear: str, layer: int, half: str) -> HeadInputs | None:
        """linear: name of a kv_b_proj. half: of latent_attention.HALVES. None where it was not observed."""
        with safe_open(self.folder / layer_file(layer), "pt") as f:
            if f"{linear}/{half}_sq" not in f.keys():
                return None
            return HeadInputs(int(f.get_tensor(f"{linear}/{half}_count")), f.get_tensor(f"{linear}/{half}_sq"))

    def moe_layers(self) -> tuple[int, ...]:
        """The decoder layers that have experts, in order."""
        self._only_a_pass_has("the experts' outputs")
        return tuple(sorted(entry["layer"] for entry in self.manifest["moe"].values()))

    def experts_of(self, layer: int) -> ExpertStatistics:
        """Raises SixfoldError where the layer has no experts."""
        self._only_a_pass_has("the experts' outputs")
        name = next((name for name, entry in self.manifest["moe"].items() if entry["layer"] == layer), None)
        if name is None:
            raise SixfoldError(
                f"the calibration in {self.folder} saw no experts in layer {layer}", "see `sixfold inspect MODEL`"
            )
        names = [field.name for field in fields(ExpertStatistics) if field.name != "name"]
        with safe_open(self.folder / layer_file(layer), "pt") as f:
            return ExpertStatistics(name, **{key: f.get_tensor(f"{name}/{key}") for key in names})


def site_bytes(channels: int, sample_rows: int, *, moments: bool) -> int:
    """Bytes of the statistics of one input (of one expert, in a stacked site) with `channels` channels."""
    sums, sample, counts = 3 * channels * 4, sample_rows * channels * 2, 2 * 8
    return sums + sample + counts + (packed_nbytes(channels) + channels * 4 + 8 if moments else 0)


def heads_bytes(heads: LatentHeads) -> int:
    """Bytes of the statistics of what the halves of one kv_b_proj read."""
    return sum(heads.heads * heads.channels(half) * 4 + 8 for half in HALVES)


def required(statistics: Statistics | None, variant: str) -> Statistics:
    """Raises SixfoldError, naming the variant, where there are none."""
    if statistics is None:
        raise SixfoldError(f"{variant} needs calibration statistics", "run `sixfold calibrate MODEL` first")
    return statistics


def open_statistics(folder: Path) -> Statistics:
    """Raises SixfoldError where the folder holds no finished calibration."""
    manifest = read_json(folder / MANIFEST)
    if manifest is None:
        raise SixfoldError(f"no finished calibration in {folder}", "run `sixfold calibrate MODEL` first")
    if manifest.get("schema") != SCHEMA:
        raise SixfoldError(
            f"the calibration in {folder} has schema {manifest.get('schema')}, this version reads {SCHEMA}",
            "run `sixfold calibrate MODEL` again",
        )
    return Statistics(folder, manifest)


def existing_statistics(folder: Path) -> Statistics | None:
    """What `open_statistics` opens; None if there is no finished calibration, or it is of another version."""
    try:
        return open_statistics(folder)
    except SixfoldError:
        return None
