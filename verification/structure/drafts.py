"""Whether layers of multi-token prediction that config.json declares are there, whole.

transformers does not run them, and tools that save a model through it lose them without a word. They are decoder
layers with a few tensors more, behind the others (`model.layers.N`) or in a module of their own (`mtp.layers.0`).
"""

import re
from collections.abc import Iterator, Mapping

from sixfold.artifact.workspace import read_json
from sixfold.checkpoint.config_fields import mtp_layers
from verification.finding import EXPORT_AGAIN, Finding
from verification.reading.folder import CONFIG
from verification.reading.subject import Subject

_LAYER = re.compile(r"(?:^|.*\.)layers\.(\d+)\.(.+)")
_OWN = re.compile(r"(^|\.)mtp(\.|_)")
_JOINED = ("eh_proj.weight", "enorm.weight", "hnorm.weight")
"""What such a layer has beside a decoder layer's tensors, where it stands behind the others."""

_NEVER_PUBLISHED = ("minimax_m2",)
"""Model types whose publisher declares MTP modules and has never published one."""

_LOST = "engines that draft with them stop, or draft with what was in memory"


def check_drafts(subject: Subject) -> Iterator[Finding]:
    declared = mtp_layers(subject.folder.config)
    if declared is None or subject.blueprint is None:
        return
    key, count = declared
    layers = subject.blueprint.architecture.layers
    held = {name for name in subject.folder.tensors if _is_draft(name, layers)}
    source = subject.source.checkpoint.tensors if subject.source is not None else {}
    if not held:
        lost = any(_is_draft(name, layers) for name in source)
        ours = read_json(subject.folder.path / "manifest.json") is not None  # what it lists is compared by hash
        blameless = ours or subject.source is not None or subject.folder.config.get("model_type") in _NEVER_PUBLISHED
        if lost or not blameless:
            what = f"it declares {count} MTP layers, and no tensor of one is there"
            yield Finding("names.missing", f"{CONFIG}: {key}", what, _LOST, "set it to 0, or export again")
        elif not ours or subject.source is not None:
            what = (
                f"it declares {count} MTP layers, and {'the source has' if source else 'its publisher published'} none"
            )
            yield Finding("drafts.declared", f"{CONFIG}: {key}", what, _LOST, "set it to 0", "warning")
        return
    if subject.source is None:
        yield from _incomplete(subject, held, layers, count)


def _is_draft(name: str, layers: int) -> bool:
    found = _LAYER.match(name)
    return bool(_OWN.search(name)) or bool(found and int(found[1]) >= layers)


def _incomplete(subject: Subject, held: set[str], layers: int, count: int) -> Iterator[Finding]:
    """Each has what the decoder layer has that it is most like, plain or quantized."""
    assert subject.blueprint is not None
    decoders = _by_layer({name for name in subject.blueprint.tensors if not _is_draft(name, layers)})
    drafts = _by_layer(held)
    stated = {int(prefix.rpartition(".")[2]) for prefix in drafts if not _OWN.search(prefix)}
    for number in sorted(set(range(layers, layers + count)) - stated) if stated else ():
        what = "config.json declares this MTP layer, and no tensor of it is there"
        yield Finding("names.missing", f"model.layers.{number}", what, _LOST, EXPORT_AGAIN)
    for prefix, parts in drafts.items():
        whole = {re.sub(r"\.(weight_packed|qweight)$", ".weight", part) for part in parts}
        alike = max(decoders.values(), key=lambda other: len(other & whole), default=frozenset())
        if len(alike & whole) * 2 < len(alike):
            continue  # unlike any decoder layer: nothing is known of it
        wanted = {*alike, *(() if _OWN.search(prefix) else _JOINED)}
        for part in sorted(wanted - whole):
            what = "the MTP layer lacks it, and decoder layers of its kind have it"
            yield Finding("names.missing", f"{prefix}.{part}", what, _LOST, EXPORT_AGAIN)
    if any(_OWN.search(name) for name in held) and not any(name.endswith("fc.weight") for name in held):
        if any("pre_fc_norm" in name for name in held):
            what = "the module that joins embeddings and hidden states for the MTP layer is missing"
            yield Finding("names.missing", "mtp.fc.weight", what, _LOST, EXPORT_AGAIN)


def _by_layer(names: set[str]) -> Mapping[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for name in names:
        layer = _LAYER.match(name)
        if layer:
            found.setdefault(name[: -len(layer[2]) - 1], set()).add(layer[2])
    return {prefix: frozenset(parts) for prefix, parts in found.items()}
