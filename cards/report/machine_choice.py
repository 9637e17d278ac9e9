"""Data for the report's chooser: the memory of each variant in each engine on each machine, from the budgets.

The page only adds, compares and sorts; every byte count in it comes from cards.budget.device_memory and
cards.budget.hardware.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cards.budget.caches.kv_cache import GPU_80_GB
from cards.budget.device_memory import longest_trained, memory
from cards.budget.hardware import ENGINES, LLAMA_CPP_MARGIN, VLLM_UTILIZATION, Hardware, hardware
from cards.facts.choice import POWER
from cards.facts.model_facts import ModelFacts
from cards.facts.readers import TITLES, budgeted
from cards.facts.recommendable import standing_of
from cards.facts.variant import Variant, table, variants_of
from cards.report.pictures import contexts_of, series_of
from sixfold.errors import SixfoldError

CACHES = {"vllm": ("bf16", "fp8"), "sglang": ("bf16", "fp8"), "llama.cpp": ("bf16", "q8_0", "q4_0")}
"""The types of KV cache of each engine."""
FLAGS = {
    "vllm": {"fp8": "--kv-cache-dtype fp8"},
    "sglang": {"fp8": "--kv-cache-dtype fp8_e4m3"},
    "llama.cpp": {c: f"--flash-attn on --cache-type-k {c} --cache-type-v {c}" for c in ("q8_0", "q4_0")},
}
HEADROOM = 0.1
OWN_DEVICES = (1, 2, 4, 8)
"""Numbers of devices of a machine that the reader describes; of 80 GB each where buffers depend on it."""


def machine_choice(model: ModelFacts) -> dict[str, Any]:
    """
    contexts   tokens, ascending
    engines    [{name, title, caches}]
    machines   [{name, title, devices, chips, note, utilization, usable: {engine: bytes of one device},
               overhead: {engine: key}}]
    own        for a machine that readers describe: {devices, utilization, margin, overhead: {"engine|devices": key}}
    flags      engine -> cache type -> what asks for that cache on the command line
    headroom   share of what an engine may use that a comfortable variant leaves free
    power      of top-1 in cards.facts.choice.rating
    overhead   key -> per cache type per context: [KV cache, compute buffers, reserve] in bytes on one device
    variants   smallest first: [{label, recipe, link, path, series, engines, hardware, weights: {devices: bytes on
               each}, kl, top1, state, why, warnings}]; path: from the page's folder; kl null where it was not measured;
               state, why and warnings of cards.facts.recommendable
    refused    why there is no budget, "" where there is one
    """
    every = [variant for variant in variants_of(model, model.root) if budgeted(variant)]
    series = series_of(every)
    engines = [engine for engine in ENGINES if any(engine in budgeted(variant) for variant in every)]
    found: dict[str, Any] = {
        "contexts": [],
        "engines": [{"name": e, "title": TITLES[e], "caches": list(CACHES[e])} for e in engines],
        "machines": [],
        "own": {"devices": list(OWN_DEVICES), "utilization": VLLM_UTILIZATION, "margin": LLAMA_CPP_MARGIN},
        "flags": {engine: FLAGS[engine] for engine in engines},
        "headroom": HEADROOM,
        "power": POWER,
        "overhead": {},
        "variants": [],
        "refused": "",
    }
    if not every:
        return {**found, "refused": "no variant is read by an engine whose memory use is known here"}
    try:
        contexts = contexts_of(longest_trained(every[0].artifact.config))
        overhead = Overhead(every[0].artifact.config, contexts)
        found["machines"] = [_machine(machine, engines, overhead) for machine in hardware()]
        found["own"]["overhead"] = {
            f"{engine}|{devices}": overhead.key(engine, devices, GPU_80_GB)
            for engine in engines
            for devices in OWN_DEVICES
        }
        counts = sorted({*OWN_DEVICES, *(machine.devices for machine in hardware())})
        found["variants"] = [_variant(variant, series, contexts[0], counts) for variant in every]
    except SixfoldError as error:
        return {**found, "machines": [], "variants": [], "refused": str(error)}
    return {**found, "contexts": list(contexts), "overhead": overhead.rows}


class Overhead:
    """What a model takes besides its weights; equal tables are kept once, under one key."""

    def __init__(self, config: Mapping[str, Any], contexts: Sequence[int]) -> None:
        self.rows: dict[str, dict[str, list[list[int]]]] = {}
        self._config = config
        self._contexts = contexts
        self._keys: dict[str, str] = {}
        self._asked: dict[tuple[str, int, int], str | None] = {}

    def key(self, engine: str, devices: int, device_bytes: int) -> str | None:
        """None where the engine cannot share the model among so many."""
        # llama.cpp's batch does not depend on how large a device is, and transformers takes long to read a config.
        asked = (engine, devices, 0 if engine == "llama.cpp" else device_bytes)
        if asked not in self._asked:
            self._asked[asked] = self._key(engine, devices, device_bytes)
        return self._asked[asked]

    def _key(self, engine: str, devices: int, device_bytes: int) -> str | None:
        try:
            row = {cache: self._of(engine, cache, devices, device_bytes) for cache in CACHES[engine]}
        except SixfoldError:
            if devices == 1:
                raise
            return None
        key = self._keys.setdefault(json.dumps(row), f"{engine}|{len(self._keys)}")
        self.rows[key] = row
        return key

    def _of(self, engine: str, cache: str, devices: int, device_bytes: int) -> list[list[int]]:
        needed = [
            memory(
                self._config,
                0,
                engine,
                context,
                cache_type=cache,
                tensor_parallel=devices,
                device_bytes=device_bytes,
            )
            for context in self._contexts
        ]
        return [[m.kv_cache, m.compute, m.reserve] for m in needed]


def _machine(machine: Hardware, engines: Sequence[str], overhead: Overhead) -> dict[str, Any]:
    runs = [engine for engine in engines if engine in machine.engines]
    keys = {engine: overhead.key(engine, machine.devices, machine.bytes_each) for engine in runs}
    return {
        "name": machine.name,
        "title": machine.title,
        "devices": machine.devices,
        "chips": _chips(machine),
        "note": machine.note,
        "utilization": machine.utilization,
        "usable": {engine: machine.usable(engine) for engine in runs},
        "overhead": {engine: key for engine, key in keys.items() if key is not None},
    }


def _chips(machine: Hardware) -> list[str]:
    """The words by which recipes name what they were made for (cards/chips.yaml); [] where that is not known."""
    chips = table("chips.yaml").value
    base = machine.name.removeprefix(f"{machine.devices}x-")
    return next((list(words) for start, words in chips.items() if base.startswith(start)), [])


def _variant(variant: Variant, series: Mapping[str, int], context: int, counts: Sequence[int]) -> dict[str, Any]:
    artifact, engine = variant.artifact, budgeted(variant)[0]
    weights = {}
    for devices in counts:
        try:
            needed = memory(artifact.config, artifact.weight_nbytes, engine, context, tensor_parallel=devices)
        except SixfoldError:
            if devices == 1:
                raise
            continue
        weights[str(devices)] = needed.weights
    standing = standing_of(variant)
    return {
        "label": artifact.label,
        "recipe": artifact.recipe,
        "link": f"#files-{artifact.recipe}",
        "path": f"{artifact.folder.name}/{artifact.weight_files[0]}" if artifact.file else artifact.folder.name,
        "series": series[artifact.recipe],
        "engines": list(budgeted(variant)),
        "hardware": list(artifact.manifest["recipe"]["hardware"]),
        "weights": weights,
        "kl": variant.as_run.mean_kl.value,
        "top1": variant.as_run.top1.value,
        "state": standing.state,
        "why": standing.why,
        "warnings": standing.warnings,
    }
