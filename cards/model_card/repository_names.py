"""Names of repositories and which of them another was made from, as facts."""

from dataclasses import dataclass

from cards.facts.traced import Fact, shown
from cards.facts.variant import Variant
from cards.model_card.rendering import link


@dataclass(frozen=True)
class Names:
    """source: source.json. owner: of the repositories, a fact without a value where they have none yet.
    bf16: the variant that holds the checkpoint itself, where there is one."""

    source: Fact
    owner: Fact
    bf16: Variant | None

    def repository(self, variant: Variant) -> str:
        """owner/name, or the name alone."""
        name = f"{shown(variant.manifest.model)}-{shown(variant.manifest.recipe.suffix)}"
        return f"{shown(self.owner)}/{name}" if self.owner else name

    def linked(self, variant: Variant) -> str:
        """What tells a variant from its siblings, with a link to its repository where that is known."""
        suffix = shown(variant.manifest.recipe.suffix)
        label = suffix if variant.artifact.file is None else f"{suffix} {variant.label}"
        return link(label, f"https://huggingface.co/{self.repository(variant)}") if self.owner else label

    @property
    def checkpoint(self) -> str:
        """Hub id of the checkpoint that everything was made from, "" where it has none."""
        if self.source.hub:
            return shown(self.source.hub)
        return self.repository(self.bf16) if self.owner and self.bf16 is not None else ""

    @property
    def original(self) -> str:
        """Hub id of what the checkpoint itself was made from, "" where nobody stated one."""
        base = self.source.provenance.base_model
        return shown(base) if base and base != self.source.hub else ""

    def base_of(self, variant: Variant) -> str:
        """Hub id that the variant's repository has for its base model; "" where none is known.

        The checkpoint; of the repository that holds the checkpoint itself, and where the checkpoint is not on the Hub,
        what the checkpoint was made from.
        """
        own = self.repository(variant)
        return self.checkpoint if self.checkpoint and self.checkpoint != own else self.original


def file_link(name: str, label: str = "") -> str:
    """To a file beside the card, under its name or another label."""
    return link(label or name, name)
