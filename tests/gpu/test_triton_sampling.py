"""What is sampled on the GPU is what a loop over experts and tokens keeps: the rows of lowest rank."""

import pytest
import torch

pytestmark = pytest.mark.gpu

NONE = torch.iinfo(torch.int64).max
TOP_K, UP, DOWN = 2, 24, 40


def batch(tokens: int, experts: int, seed: int, skew: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """index [tokens, TOP_K], hidden [tokens, UP] and, by pair, inner [tokens x TOP_K, DOWN]."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(tokens, experts, generator=generator) + skew * torch.arange(experts)
    hidden = torch.randn(tokens, UP, generator=generator).bfloat16()
    return scores.topk(TOP_K).indices, hidden, torch.randn(tokens * TOP_K, DOWN, generator=generator).bfloat16()


@pytest.mark.parametrize(("size", "skew"), [(16, 0.0), (12, 0.0), (1, 0.5), (128, 0.5)])
def test_the_rows_of_lowest_rank_stay(size: int, skew: float) -> None:
    from calibration.kernels.triton_sampling import Site, keep_lowest

    experts, tokens, batches = 7, 300, 5
    ranks = torch.randperm(tokens * batches, generator=torch.Generator().manual_seed(1))
    kept = torch.full((experts, size), NONE, device="cuda")
    sites = [
        Site(torch.zeros(experts, size, width, dtype=torch.bfloat16, device="cuda"), kept.clone(), torch.empty(0), True)
        for width in (UP, DOWN)
    ]
    seen: dict[int, dict[int, tuple[torch.Tensor, torch.Tensor]]] = {expert: {} for expert in range(experts)}
    for number in range(batches):
        index, hidden, inner = batch(tokens, experts, number, skew)
        own = ranks[number * tokens : (number + 1) * tokens]
        for pair, expert in enumerate(index.reshape(-1).tolist()):
            token = pair // TOP_K
            seen[expert][int(own[token])] = (hidden[token], inner[pair])
        order = index.reshape(-1).argsort(stable=True)
        counts = torch.bincount(index.reshape(-1), minlength=experts)
        keep_lowest(
            [
                Site(sites[0].sample, sites[0].kept, hidden.cuda(), True),
                Site(sites[1].sample, sites[1].kept, inner[order].cuda(), False),
            ],
            order.cuda(),
            counts.cumsum(0).cuda(),
            counts.cuda(),
            own.cuda(),
            TOP_K,
        )
    for expert, rows in seen.items():
        lowest = sorted(rows)[:size]
        for site, which in ((sites[0], 0), (sites[1], 1)):
            found = {int(r): row for r, row in zip(site.kept[expert].cpu(), site.sample[expert].cpu(), strict=True)}
            found.pop(NONE, None)
            assert sorted(found) == lowest
            assert all(torch.equal(found[rank], rows[rank][which]) for rank in lowest)


def test_the_host_never_waits() -> None:
    from calibration.kernels.triton_sampling import Site, keep_lowest

    index, hidden, _ = batch(50, 4, 0, 0.0)
    order, counts = index.reshape(-1).argsort(stable=True).cuda(), torch.bincount(index.reshape(-1), minlength=4).cuda()
    kept = torch.full((4, 8), NONE, device="cuda")
    site = Site(torch.zeros(4, 8, UP, dtype=torch.bfloat16, device="cuda"), kept, hidden.cuda(), True)
    ends, ranks = counts.cumsum(0), torch.arange(50, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        keep_lowest([site], order, ends, counts, ranks, TOP_K)
    finally:
        torch.cuda.set_sync_debug_mode("default")
