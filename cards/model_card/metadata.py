"""The front matter of a card: the fields that the Hub interprets."""

from collections.abc import Mapping, Sequence
from typing import Any

from cards.facts.readers import reader_of
from cards.facts.traced import Fact, without_marks
from cards.facts.variant import Variant
from cards.model_card.repository_names import Names

MANAGED = (
    "license",
    "license_name",
    "license_link",
    "base_model",
    "base_model_relation",
    "library_name",
    "pipeline_tag",
    "language",
    "datasets",
    "tags",
)
"""Fields that are rendered, in this order. All others are a person's, and are kept."""


def license_fields(provenance: Fact, license_file: str) -> dict[str, Any]:
    """license_file: name of the file beside the card, "" where there is none."""
    link = provenance.license_link.value
    if provenance.license == "other" and not link:
        link = license_file
    return {"license": provenance.license.value, "license_name": provenance.license_name.value, "license_link": link}


def metadata(mine: Sequence[Variant], names: Names, license_file: str, languages: Fact) -> dict[str, Any]:
    """Fields for a folder's variants. What is not known is left out."""
    first = mine[0]
    base = names.base_of(first)
    texts = [text for variant in mine if variant.statistics for text in variant.statistics.profile.texts]
    fields = {
        **license_fields(names.source.provenance, license_file),
        "base_model": read(base),
        "base_model_relation": "quantized" if _is_quantization_of(first, base, names) else "",
        "library_name": reader_of(first).library.value,
        "pipeline_tag": "text-generation",
        "language": languages.value,
        "datasets": sorted({text.dataset.value for text in texts if isinstance(text.value, dict) and text.dataset}),
        "tags": tags(mine),
    }
    return stated(fields)


def stated(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: fields[key] for key in MANAGED if fields.get(key)}


def tags(mine: Sequence[Variant]) -> list[str]:
    """Lower case, as the Hub's own; with what engines and readers filter by."""
    found = {"sixfold"}
    for variant in mine:
        found |= {variant.artifact.scheme.lower(), variant.layout} - {"none"}
        if variant.artifact.config.get("num_local_experts") or variant.artifact.config.get("num_experts"):
            found.add("moe")
        if variant.artifact.manifest["statistics"] and variant.layout == "gguf":
            found.add("imatrix")
    return sorted(found)


def read(marked: str) -> str:
    """Text as it is read, without the marks of its origin."""
    return without_marks(marked)[0]


def _is_quantization_of(variant: Variant, base: str, names: Names) -> bool:
    """Whether nothing but the quantization lies between the base model and the variant: a checkpoint that was pruned or
    tuned on the way, and is not on the Hub itself, makes its original the base of something else too."""
    if not base or variant.is_bf16:
        return False
    return base == names.checkpoint or not names.source.provenance.method
