"""What repositories are called and which of them another was made from, as facts."""

from dataclasses import dataclass

from cards.rendering import code, hub_link, link
from cards.traced import Fact, shown
from cards.variant import Variant


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
        """To another variant's repository where it is known, to the file where it is in this one."""
        return hub_link(self.repository(variant)) if self.owner else code(self.repository(variant))

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


def file_link(name: str) -> str:
    """To a file beside the card."""
    return link(name, name)
