"""How many experts are kept, and whether that number works with top-k, group-limited routers and expert parallelism."""

from pruning.anatomy import Anatomy
from sixfold.errors import UsageError

PARALLEL = (2, 4, 8)
"""Sizes of expert parallelism in use."""


def kept_for_ratio(anatomy: Anatomy, ratio: float) -> int:
    """int(experts * ratio) are pruned, as REAP counts: 256 at 0.4 keeps 154. A group-limited router needs the same
    number in each group, so there the rule holds for the group: 256 in 8 groups keeps 8 * (32 - 12) = 160."""
    if not 0 < ratio < 1:
        raise UsageError(
            f"a ratio of {ratio:g} is not between 0 and 1", "give the share of experts to prune, such as 0.4"
        )
    pruned = int(anatomy.group_size * ratio) * anatomy.groups
    if pruned == 0:
        raise UsageError(
            f"a ratio of {ratio:g} prunes none of {anatomy.group_size} experts{_in_a_group(anatomy)}",
            f"prune at least {1 / anatomy.group_size:g}",
        )
    return checked(anatomy, anatomy.experts - pruned)


def checked(anatomy: Anatomy, kept: int) -> int:
    """`kept`, where a layer can keep that many; UsageError with the reason and the nearest numbers elsewhere."""
    least = least_kept(anatomy)
    if kept == anatomy.experts:
        raise UsageError(f"the checkpoint has {kept} experts in each layer already", "keep fewer, or leave it as it is")
    if not least <= kept < anatomy.experts:
        raise UsageError(
            f"a layer cannot keep {kept} expert{'s' if kept != 1 else ''}: the router chooses {anatomy.top_k} of"
            f" {anatomy.experts} for a token{_from_groups(anatomy)}",
            f"keep {least} to {anatomy.experts - anatomy.groups}",
        )
    if kept % anatomy.groups:
        below = kept - kept % anatomy.groups
        nearest = [n for n in (below, below + anatomy.groups) if least <= n < anatomy.experts]
        raise UsageError(
            f"{kept} experts do not divide into the router's {anatomy.groups} groups, which must stay equal",
            f"keep {' or '.join(map(str, nearest))}",
        )
    return kept


def least_kept(anatomy: Anatomy) -> int:
    """Fewest experts with which top-k is reachable: the chosen groups must hold that many, and routers that rank
    groups rank them by their best two experts."""
    if anatomy.groups == 1:
        return anatomy.top_k
    return anatomy.groups * max(-(-anatomy.top_k // anatomy.chosen_groups), 2)


def uneven(kept: int, experts: int) -> str:
    """A sentence where expert parallelism of a usual size divides `kept` of `experts` unevenly; "" elsewhere."""
    sizes = [size for size in PARALLEL if kept % size]
    if not sizes:
        return ""
    below = kept - kept % PARALLEL[-1]
    even = [n for n in (below, below + PARALLEL[-1]) if 0 < n < experts]
    remedy = f" ({_listed(even)} would)" if even else ""
    return (
        f"{kept} experts do not divide by {_listed(sizes)}{remedy}: expert parallelism over so many devices is uneven,"
        " or refused by engines."
    )


def _listed(sizes: list[int]) -> str:
    return " or ".join(map(str, sizes))


def _in_a_group(anatomy: Anatomy) -> str:
    return "" if anatomy.groups == 1 else f" in each of {anatomy.groups} groups"


def _from_groups(anatomy: Anatomy) -> str:
    return "" if anatomy.groups == 1 else f", from {anatomy.chosen_groups} of {anatomy.groups} groups"
