"""Kinds of text are found where they are plain to see."""

import torch

from pruning.healing.kinds import KINDS, SEGMENT, by_token, kinds_of, segment_means


def some_kinds(count: int, each: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Means of segments around as many centers, in an order of their own, and which center each belongs to."""
    draw = torch.Generator().manual_seed(7)
    of = torch.arange(count).repeat(each)[torch.randperm(count * each, generator=draw)]
    centers = torch.randn(count, 32, generator=draw)
    return centers[of] + 0.1 * torch.randn(len(of), 32, generator=draw) + 5, of


def test_groups_that_lie_apart_are_the_kinds() -> None:
    vectors, of = some_kinds(KINDS, 40)
    found = kinds_of(vectors)
    pairs = {(int(a), int(b)) for a, b in zip(found, of, strict=True)}
    assert len(pairs) == KINDS, "each kind is one group, and each group one kind"
    assert torch.equal(found, kinds_of(vectors))
    assert int(found[0]) == 0


def test_few_segments_make_few_kinds() -> None:
    assert int(kinds_of(torch.randn(3, 8)).max()) == 0
    assert int(kinds_of(torch.randn(9, 8, generator=torch.Generator().manual_seed(1))).max()) <= 1
    assert kinds_of(torch.ones(40, 8)).tolist() == [0] * 40


def test_every_token_has_the_kind_of_its_segment() -> None:
    length = 2 * SEGMENT + 5
    embedded = torch.randn(3, length, 4)
    means = segment_means(embedded)
    assert means.shape == (3, 3, 4)
    torch.testing.assert_close(means[1, 2], embedded[1, 2 * SEGMENT :].mean(0))
    kinds = by_token(torch.arange(9).view(3, 3), length).view(3, length)
    assert kinds[1].tolist() == [3] * SEGMENT + [4] * SEGMENT + [5] * 5
