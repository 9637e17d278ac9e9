"""Requirements on a card before its repository may be published, and its base model."""

from collections.abc import Collection, Mapping
from typing import Any

import yaml

from sixfold.errors import SixfoldError

_FENCE = "---\n"


def with_base_model(card: str, base: str) -> str:
    """The card with `base` (a hub id) as the model that this one was quantized from."""
    fields, body = _split(card)
    fields |= {"base_model": base, "base_model_relation": "quantized"}
    return f"{_FENCE}{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}{_FENCE}{body}"


def check_license(repo: str, card: str, files: Collection[str]) -> None:
    """Raises SixfoldError where the card states no license, or one that a reader could not find."""
    fields, _ = _split(card)
    remedy = "state it with --license (--license-name, --license-link) or in provenance.yaml, and export again"
    license = fields.get("license")
    if not license:
        raise SixfoldError(f"{repo} has no license, so nobody may use it", remedy)
    if license != "other":
        return
    for key in ("license_name", "license_link"):
        if not fields.get(key):
            raise SixfoldError(f"the license of {repo} is `other`, and its card has no {key}", remedy)
    link = str(fields["license_link"])
    if not link.startswith(("https://", "http://")) and link not in files:
        raise SixfoldError(
            f"the card of {repo} says that its license is in {link}, and there is no such file",
            "put the file beside the source's weights and export again, or give a URL with --license-link",
        )


def _split(card: str) -> tuple[dict[str, Any], str]:
    """(fields of the front matter, {} where there is none that can be read; the text after it)"""
    if not card.startswith(_FENCE) or "\n---\n" not in card[len(_FENCE) - 1 :]:
        return {}, card
    head, _, body = card[len(_FENCE) :].partition(f"\n{_FENCE}")
    try:
        fields = yaml.safe_load(head)
    except yaml.YAMLError:
        return {}, body
    return (dict(fields) if isinstance(fields, Mapping) else {}), body
