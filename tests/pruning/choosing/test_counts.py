"""How many experts stay: REAP's own arithmetic, top-k within reach, and groups that stay equal."""

import pytest

from pruning.anatomy import Anatomy
from pruning.choosing.counts import checked, kept_for_ratio, uneven
from sixfold.errors import UsageError


def anatomy(experts: int, top_k: int, groups: int = 1, chosen_groups: int = 1) -> Anatomy:
    return Anatomy(experts, top_k, groups, chosen_groups, (0, 1), {}, (("num_experts",),), False, ())


@pytest.mark.parametrize(
    ("experts", "ratio", "kept"), [(256, 0.4, 154), (256, 0.25, 192), (128, 0.5, 64), (16, 0.4, 10), (60, 0.1, 54)]
)
def test_the_pruned_number_is_rounded_down(experts: int, ratio: float, kept: int) -> None:
    assert kept_for_ratio(anatomy(experts, 4), ratio) == kept == experts - int(experts * ratio)


def test_groups_stay_equal() -> None:
    """DeepSeek-V3: 256 experts in 8 groups of 32, of which 4 are chosen; 12 of each 32 go."""
    assert kept_for_ratio(anatomy(256, 8, 8, 4), 0.4) == 160
    with pytest.raises(UsageError, match=r"154 experts do not divide into the router's 8 groups.*; keep 152 or 160"):
        checked(anatomy(256, 8, 8, 4), 154)


def test_top_k_stays_within_reach() -> None:
    with pytest.raises(UsageError, match=r"cannot keep 3 experts: the router chooses 4 of 16 .*; keep 4 to 15"):
        checked(anatomy(16, 4), 3)
    # 8 experts must come from 4 groups: 2 in each of 8 groups are the least.
    assert checked(anatomy(256, 8, 8, 4), 16) == 16
    with pytest.raises(UsageError, match="from 4 of 8 groups; keep 16 to 248"):
        checked(anatomy(256, 8, 8, 4), 8)


def test_groups_are_ranked_by_two_experts() -> None:
    """One chosen expert from one chosen group would do for top-k, and yet each group needs two."""
    with pytest.raises(UsageError, match="keep 4 to 6"):
        checked(anatomy(8, 1, 2, 1), 2)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 40.0])
def test_a_ratio_is_a_share(ratio: float) -> None:
    with pytest.raises(UsageError, match=f"a ratio of {ratio:g} is not between 0 and 1"):
        kept_for_ratio(anatomy(16, 4), ratio)


def test_a_ratio_that_prunes_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"a ratio of 0.05 prunes none of 16 experts; prune at least 0.0625"):
        kept_for_ratio(anatomy(16, 4), 0.05)


def test_nothing_to_prune_is_refused() -> None:
    with pytest.raises(UsageError, match="has 16 experts in each layer already"):
        checked(anatomy(16, 4), 16)


def test_uneven_expert_parallelism_is_said() -> None:
    assert uneven(160, 256) == ""
    assert "154 experts do not divide by 4 or 8" in uneven(154, 256)
    assert "152 or 160 would" in uneven(154, 256)
    assert "(" not in uneven(6, 8)
