"""What a reader of the manifest should know of how errors were compensated."""

from sixfold.name_lists import some
from sixfold.statistics.statistics import Statistics

_MOST = 0.5


def few_tokens(statistics: Statistics) -> tuple[str, ...]:
    """One sentence for every input of a layer's experts of which some read too few tokens to be known by their own."""
    notes = []
    for site, entry in statistics.manifest["sites"].items():
        if entry["experts"] is None:
            continue
        chance = statistics.site(site, ["moments_chance"])["moments_chance"]
        few = [str(expert) for expert in (chance > _MOST).nonzero()[:, 0].tolist()]
        if few:
            notes.append(
                f"{site}: experts {some(few)} saw so few tokens that more than half of the second moments they were"
                " compensated by are what the layer's experts have in common"
            )
    return tuple(notes)
