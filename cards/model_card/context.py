"""The context of the template of a variant's card: facts, and selections from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cards.evaluation_section import benchmarks_of
from cards.facts.choice import best_of
from cards.facts.model_facts import ModelFacts
from cards.facts.readers import reader_of
from cards.facts.traced import Derived, Fact, derived, shown
from cards.facts.variant import Variant, fact_of, table, variants_of
from cards.model_card.images import attributions_of, charts_of
from cards.model_card.limits import limits_of
from cards.model_card.making import calibrations_of, commands_of, once, texts_of, tools_of
from cards.model_card.memory_section import memory_section
from cards.model_card.rendering import counted, hub_link
from cards.model_card.repository_names import Names, file_link
from sixfold.artifact.plan import LITTLE_QUANTIZED
from sixfold.artifact.source_record import FILE as SOURCE
from sixfold.artifact.source_record import FOLDER

_TITLES = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "llama.cpp": "llama.cpp",
    "ollama": "Ollama",
    "lm-studio": "LM Studio",
    "transformers": "transformers",
    "transformers-gptqmodel": "transformers (through gptqmodel)",
    "tensorrt-llm": "TensorRT-LLM",
    "lmdeploy": "LMDeploy",
}


@dataclass(frozen=True)
class Row:
    """One line of the table to choose from."""

    link: str
    size: Derived
    as_run: Fact
    since_original: Fact
    remarks: tuple[str, ...]
    is_source: bool


@dataclass(frozen=True)
class Advice:
    """What to take if unsure, in an engine. smaller, larger: its measured neighbors by size, None where there is
    none."""

    engine: str
    link: str
    best: Variant
    smaller: Variant | None
    larger: Variant | None


def names_of(model: ModelFacts, folder: Path, owner: str) -> Names:
    """owner: of the repositories on the Hub, "" where it is not known."""
    source = fact_of(model.source, model.root / FOLDER / SOURCE, folder)
    bf16 = next((variant for variant in variants_of(model, folder) if variant.is_bf16), None)
    return Names(source, Fact(owner, "option:owner"), bf16)


def context_of(model: ModelFacts, folder: Path, owner: str) -> dict[str, Any]:
    every = variants_of(model, folder)
    mine = tuple(variant for variant in every if variant.artifact.folder == folder)
    first = mine[0]
    names = names_of(model, folder, owner)
    provenance = names.source.provenance
    reader = reader_of(first)
    engines = [engine.value for engine in reader.engines]
    checkpoint = shown(first.manifest.model)
    license_file = _shown_file(license_file_in(folder), mine)
    return {
        "mine": mine,
        "variant": first,
        "number_of_files": derived("number_of", *(variant.manifest.variant for variant in mine)),
        "files_apart": first.artifact.file is not None,
        "little_quantized": list(_little_quantized(mine)),
        "bf16": names.bf16,
        "title": f"{checkpoint}-{shown(first.manifest.recipe.suffix)}",
        "model": checkpoint,
        "checkpoint": checkpoint,
        "checkpoint_link": hub_link(names.checkpoint) if names.checkpoint else checkpoint,
        "original_link": hub_link(names.original) if names.original else "",
        "source_name": names.checkpoint or "MODEL",
        "repo": names.repository(first),
        "owner": names.owner,
        "provenance": provenance,
        "license": _license(provenance, license_file),
        "license_file": license_file,
        "config": first.config,
        "verified": _verified(mine),
        "rows": _rows(mine, every, names),
        "elsewhere": [names.linked(v) for v in every if v.artifact.folder != folder and names.owner],
        "advised": list(_advised(mine, every, names)),
        "suggested": _suggested(mine),
        "memory": memory_section(mine, reader.engines),
        "engines": engines,
        "titles": _TITLES,
        "engine_titles": [_TITLES[engine] for engine in engines],
        "unfit": [(engine, shown(reason, "text")) for engine, reason in reader.unfit.pairs()],
        "chats": any(path.name.startswith("chat_template") for path in folder.iterdir()),
        "remote_code": lambda flag: flag if first.artifact.config.get("auto_map") else "",
        "parser_flags": lambda engine: _parser_flags(first, folder, engine),
        "limited": _limited,
        "held": {key: any(v.verification.allowed[key] for v in mine) for key in ("max_mean_kl", "min_top1")},
        "measured": [variant for variant in mine if variant.as_run],
        "benchmarks": benchmarks_of(mine),
        "limits": limits_of(mine, _pruning(model, folder, "manifest"), bool(provenance.license)),
        "calibrations": calibrations_of(mine),
        "commands": commands_of(mine),
        **_pruning_context(model, folder),
        **_names_beside(first),
        "compensated": once(mine, lambda variant: [variant.manifest.device] if variant.manifest.device else []),
        "notes": once(mine, lambda variant: variant.manifest.notes),
        "files": _files(mine),
        "tools": tools_of(mine, _pruning(model, folder, "plan")),
        "texts": texts_of(mine),
        "charts": charts_of(folder, engines),
        "attributions": attributions_of(mine),
    }


def _names_beside(variant: Variant) -> dict[str, str]:
    """What the files beside an artifact are called: beside a GGUF they begin with its name."""
    start = "" if variant.artifact.file is None else "<file>."
    return {"manifest_name": f"{start}manifest.json", "verification_name": f"{start}verification.json"}


def license_file_in(folder: Path) -> str:
    """Name of the license's text beside the card, "" where there is none."""
    found = sorted(path.name for path in folder.glob("LICEN[CS]E*"))
    return found[0] if found else ""


def _little_quantized(mine: Sequence[Variant]) -> Iterator[Fact]:
    """The note of each variant that quantizes little; the same one once."""
    notes = [note for variant in mine for note in variant.manifest.notes]
    found = {note.value: note for note in notes if str(note.value).startswith(LITTLE_QUANTIZED)}
    yield from found.values()


def _shown_file(name: str, mine: Sequence[Variant]) -> str:
    """A file beside the card, as a manifest names it; "" where none does."""
    listed = (key for variant in mine for key, _ in variant.manifest["files"].pairs() if key == name)
    return next((shown(key) for key in listed), "")


def _license(provenance: Fact, license_file: str) -> str:
    if not provenance.license:
        return ""
    name = shown(provenance.license_name or provenance.license, "text")
    target = shown(provenance.license_link) if provenance.license_link else license_file
    return f"[{name}]({target})" if target else name


def _verified(mine: Sequence[Variant]) -> str:
    if not any(variant.verification for variant in mine):
        return "not yet"
    warnings = derived("warnings", *(variant.verification.findings for variant in mine if variant.verification))
    warned = f"; {counted(warnings, 'warning')} (see the known limits)" if warnings else ""
    failed = [variant.label for variant in mine if variant.verification and not variant.passed]
    if failed:
        return f"**failed**: {', '.join(failed)} (see the known limits)"
    missing = [variant.label for variant in mine if not variant.verification]
    passed = _checked([variant for variant in mine if variant.verification])
    return f"{passed}; not yet: {', '.join(missing)}{warned}" if missing else f"{passed}{warned}"


def _checked(verified: Sequence[Variant]) -> str:
    """What all of them passed."""
    kinds = ["structure"]
    if all(variant.verification.weights for variant in verified):
        kinds.append("every weight against the checkpoint")
    if all(variant.as_run for variant in verified):
        kinds.append("divergence from BF16")
    if all(any(gate for gate in variant.verification.gates) for variant in verified):
        kinds.append("gates")
    return ", ".join(kinds)


def _rows(mine: Sequence[Variant], every: Sequence[Variant], names: Names) -> list[Row]:
    """For a GGUF folder its files, for another folder all variants, smallest first."""
    apart = mine[0].artifact.file is not None
    listed = mine if apart else every
    rows = []
    for variant in listed:
        remarks = []
        if variant.verification and not variant.passed:
            remarks.append("**failed its checks**")
        if variant.is_bf16:
            remarks.append("the checkpoint itself")
        use = table("formats.yaml").schemes[variant.artifact.scheme]
        if use:
            remarks.append(shown(use))
        if apart and variant.parts.value > 1:
            link = file_link(variant.first_file, f"{variant.label}, {counted(variant.parts, 'file')}")
        elif apart:
            link = file_link(variant.first_file)
        elif variant in mine:
            link = f"**{variant.label}** (this one)"
        else:
            link = names.linked(variant)
        rows.append(Row(link, variant.size, variant.as_run, variant.since_original, tuple(remarks), variant.is_bf16))
    return rows


def _suggested(mine: Sequence[Variant]) -> Variant:
    """The file that commands name: the one to take if unsure; where none was measured, the one in the middle by size,
    of those that passed if there are any."""
    passed = [variant for variant in mine if variant.passed] or list(mine)
    return best_of(mine) or passed[len(passed) // 2]


def _advised(mine: Sequence[Variant], every: Sequence[Variant], names: Names) -> Iterator[Advice]:
    """For llama.cpp, and on the cards of folders for vLLM too: everything else reads what one of them does."""
    apart = mine[0].artifact.file is not None
    for engine in ("llama.cpp",) if apart else ("vllm", "llama.cpp"):
        readable = [v for v in (mine if apart else every) if engine in reader_of(v).engines]
        measured = [v for v in readable if v.passed and v.as_run]
        best = best_of(measured)
        if best is None or len(measured) < 2:
            continue
        at = measured.index(best)
        link = file_link(best.first_file) if apart else best.label if best in mine else names.linked(best)
        smaller = measured[at - 1] if at else None
        larger = measured[at + 1] if at + 1 < len(measured) else None
        yield Advice(_TITLES[engine], link, best, smaller, larger)


def _parser_flags(variant: Variant, folder: Path, engine: str) -> str:
    """For tool calls and reasoning, where the chat template knows of tools."""
    flags = table("parsers.yaml")[str(variant.artifact.config.get("model_type"))][engine]
    template = folder / "chat_template.jinja"
    knows_tools = template.is_file() and "tools" in template.read_text(encoding="utf-8", errors="replace")
    return f" {shown(flags)}" if flags and knows_tools else ""


def _limited(engine: str) -> list[Fact]:
    """Machines on which an engine must use a smaller share of memory than its default."""
    return [machine for machine in table("hardware.yaml") if engine in machine.engines and machine.utilization]


def _pruning(model: ModelFacts, folder: Path, name: str) -> Fact:
    if model.pruning is None:
        return Fact(None, "")
    return fact_of(getattr(model.pruning, name), model.pruning.folder / f"{name}.json", folder)


def _pruning_context(model: ModelFacts, folder: Path) -> dict[str, Any]:
    plan, verification = _pruning(model, folder, "plan"), _pruning(model, folder, "verification")
    if not plan:
        return {"pruned": False, "plan": plan, "pruning": verification, "kept": "", "biases": ""}
    vectors = verification.structure.layers[0].vectors
    biases = [name for name, _ in vectors.pairs() if name.value.endswith("bias")]
    return {
        "pruned": True,
        "plan": plan,
        "pruning": verification,
        "kept": shown(derived("kept_experts", plan.layers)),
        "biases": shown(biases[0], "last_name") if biases else "",
    }


def _files(mine: Sequence[Variant]) -> list[tuple[Fact, Fact]]:
    """Name and record of every file, each once: GGUF files share their license."""
    found = {name.value: (name, record) for v in mine for name, record in v.manifest["files"].pairs()}
    return [found[name] for name in sorted(found)]
