"""One pass over the model: texts in, a folder of statistics out (sixfold.statistics says what is in it)."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from calibration.corpus import text_files
from calibration.coverage import Coverage, coverage_from_json, coverage_of, coverage_to_json
from calibration.forward import BATCH_TOKENS, observe_tokens
from calibration.imatrix import FILE as IMATRIX
from calibration.imatrix import write_imatrix
from calibration.observe import Observation, moe_of
from calibration.tokens import load_tokenizer, token_batches
from sixfold.architecture import Linear
from sixfold.errors import SixfoldError
from sixfold.manifest import FileRecord, run_name, state_of, versions
from sixfold.progress import Progress
from sixfold.recipe import Calibration
from sixfold.source import Source
from sixfold.statistics import MANIFEST, SCHEMA, Statistics, layer_file, open_statistics
from sixfold.workspace import sha256_of, write_atomically, write_json

_LIBRARIES = ("sixfold", "torch", "transformers")


@dataclass(frozen=True)
class Calibrated:
    """skipped: the folder was current. reasons: where it was not, what was missing or had changed."""

    statistics: Statistics
    skipped: bool
    reasons: tuple[str, ...]
    coverage: tuple[Coverage, ...]


def calibration_inputs(source: Source, profile: Calibration) -> dict[str, Any]:
    """Everything that decides the statistics, but for the machine's float order."""
    return {
        "schema": SCHEMA,
        "source": {"fingerprint": source.checkpoint.fingerprint, "revision": source.checkpoint.revision},
        "profile": profile.model_dump(mode="json"),
        "texts": {file.name: file.digest for file in text_files(profile.texts)},
        "method": {"dtype": "bfloat16", "batch_tokens": BATCH_TOKENS},
        "versions": {name: number for name, number in versions().items() if name in _LIBRARIES},
    }


def calibrate(source: Source, profile: Calibration, folder: Path, *, progress: Progress) -> Calibrated:
    """Statistics of every Linear's input over the profile's texts, in `folder`; nothing is run where it is current.

    Raises SixfoldError where the texts are too small, the tokenizer is missing or another model's, or transformers
    runs this family's experts in a way that cannot be observed.
    """
    inputs = calibration_inputs(source, profile)
    state = state_of(folder, MANIFEST, inputs)
    if state.name == "current":
        statistics = open_statistics(folder)
        return Calibrated(statistics, True, (), coverage_from_json(statistics.manifest["coverage"]))
    started = time.time()
    tokens = token_batches(profile, load_tokenizer(source.checkpoint.folder))
    observation = observe_tokens(source, tokens.ids, profile, progress)
    sites, moe = sites_of(observation.linears), moe_layers(observation.linears)
    coverage = _coverage(source.architecture.linears, observation, profile.sample_rows)
    _clear(folder)
    files = dict(_write_layers(folder, sites, moe, observation))
    manifest = {
        **inputs,
        "model": source.checkpoint.name,
        "tokens": tokens.record,
        "sites": sites,
        "moe": moe,
        "without_statistics": _without_statistics(source, observation),
        "coverage": coverage_to_json(coverage),
        "files": {name: {"bytes": f.bytes, "sha256": f.sha256} for name, f in sorted(files.items())},
    }
    run = {
        "seconds": round(time.time() - started, 2),
        "device": str(observation.device),
        "threads": torch.get_num_threads(),
        "modified_ns": {name: (folder / name).stat().st_mtime_ns for name in files},
    }
    write_json(folder / run_name(MANIFEST), run)
    write_json(folder / MANIFEST, manifest)
    statistics = open_statistics(folder)
    with suppress(SixfoldError):  # no names in llama.cpp: exporting GGUF says so, and nothing else needs the file
        write_imatrix(statistics, source, folder / IMATRIX)
    return Calibrated(statistics, False, state.reasons, coverage)


def sites_of(linears: Sequence[Linear]) -> dict[str, dict[str, Any]]:
    """The manifest's "sites": who reads each one, experts under "*"."""
    sites: dict[str, dict[str, Any]] = {}
    for linear in linears:
        entry = sites.setdefault(linear.site, {"layer": linear.layer, "experts": None, "linears": []})
        if linear.expert is not None:
            entry["experts"] = max(entry["experts"] or 0, linear.expert + 1)
        name = _starred(linear)
        if name not in entry["linears"]:
            entry["linears"].append(name)
    return sites


def moe_layers(linears: Sequence[Linear]) -> dict[str, dict[str, Any]]:
    """The manifest's "moe": where experts are, and how many."""
    moe: dict[str, dict[str, Any]] = {}
    for linear in linears:
        if linear.expert is not None:
            entry = moe.setdefault(moe_of(linear.site), {"layer": linear.layer, "experts": 0})
            entry["experts"] = max(entry["experts"], linear.expert + 1)
    return moe


def _starred(linear: Linear) -> str:
    if linear.expert is None:
        return linear.name
    before, _, after = linear.name.rpartition(f".{linear.expert}.")
    return f"{before}.*.{after}"


def _without_statistics(source: Source, observation: Observation) -> list[str]:
    """Tensors that transformers does not run, and Linears outside attention and MLP, which nothing is quantized of."""
    unobserved = {linear.weight for linear in source.architecture.linears} - {li.weight for li in observation.linears}
    return sorted(unobserved | set(source.architecture.not_run))


def _coverage(linears: Sequence[Linear], observation: Observation, enough: int) -> tuple[Coverage, ...]:
    routed = {linear.site: linear.layer for linear in linears if linear.expert is not None and linear.part != "down"}
    return tuple(
        coverage_of(layer, tuple(observation.sites[site].count.tolist()), enough)
        for site, layer in routed.items()
        if layer is not None
    )


def _clear(folder: Path) -> None:
    """The manifest goes first: from here on the folder holds no calibration until a new one is written."""
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / IMATRIX).unlink(missing_ok=True)
    for path in folder.glob("layer-*.safetensors"):
        path.unlink()


def _write_layers(
    folder: Path, sites: dict[str, dict[str, Any]], moe: dict[str, dict[str, Any]], observation: Observation
) -> Iterator[tuple[str, FileRecord]]:
    for layer in dict.fromkeys(entry["layer"] for entry in sites.values()):
        names = [site for site, entry in sites.items() if entry["layer"] == layer]
        tensors = {f"{site}/{key}": tensor for site in names for key, tensor in observation.finish(site).items()}
        for name, entry in moe.items():
            if entry["layer"] == layer:
                tensors |= {f"{name}/{key}": tensor for key, tensor in observation.moe[name].finish().items()}
        path = folder / layer_file(layer)
        write_atomically(path, save(tensors, {"format": "pt"}))
        yield path.name, FileRecord(path.stat().st_size, sha256_of(path))
