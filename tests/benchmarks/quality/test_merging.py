"""The trial of merging: neurons matched for the least cost, and like experts merged into one that gives the same."""

from itertools import permutations

import numpy as np
import torch
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from benchmarks.quality.merging import assigned, merge_layer, seen
from sixfold.model.source import open_source
from sixfold.runner.experts import inner_products, outer_products
from sixfold.runner.whole_model import load_model
from tests.small_demo import DEMO


def test_assignment_has_the_least_cost_of_all() -> None:
    draw = np.random.default_rng(0)
    for size in (1, 2, 4, 6):
        for _ in range(4):
            cost = draw.normal(size=(size, size))
            least = min(cost[range(size), order].sum() for order in map(list, permutations(range(size))))
            assert np.isclose(cost[range(size), assigned(cost)].sum(), least)


@torch.no_grad()
def test_an_expert_merged_with_itself_in_another_order_stays_what_it_was() -> None:
    torch.manual_seed(0)
    module = Qwen3MoeExperts(Qwen3MoeConfig(hidden_size=16, moe_intermediate_size=24, num_experts=3))
    for parameter in module.parameters():
        parameter.normal_()
    order = torch.randperm(24)
    module.gate_up_proj[2] = torch.cat([part[order] for part in module.gate_up_proj[0].chunk(2)])
    module.down_proj[2] = module.down_proj[0][:, order]
    inputs, gates = torch.randn(50, 16), torch.rand(50, 3)
    before = [outer_products(module, inner_products(module, inputs, expert), expert) for expert in (0, 1)]

    merge_layer(module, inputs, gates, (0, 1), torch.tensor([3.0, 2.0, 1.0]), 2)

    after = [outer_products(module, inner_products(module, inputs, expert), expert) for expert in (0, 1)]
    torch.testing.assert_close(after, before)


@torch.no_grad()
def test_merged_weights_are_means_weighted_by_saliency() -> None:
    torch.manual_seed(0)
    module = Qwen3MoeExperts(Qwen3MoeConfig(hidden_size=16, moe_intermediate_size=1, num_experts=3))
    for parameter in module.parameters():
        parameter.normal_()
    expected = 0.75 * module.down_proj[1] + 0.25 * module.down_proj[2]

    merge_layer(module, torch.randn(50, 16), torch.rand(50, 3), (0, 1), torch.tensor([2.0, 3.0, 1.0]), 2)

    torch.testing.assert_close(module.down_proj[1], expected)


def test_every_token_is_seen_in_every_layer() -> None:
    model = load_model(open_source(DEMO), dtype=torch.float32, device=torch.device("cpu"))
    windows = torch.randint(4, 2048, (3, 16), generator=torch.Generator().manual_seed(0))
    for layer in range(2):
        module, inputs, gates = seen(model, windows, layer)
        assert module is model.model.layers[layer].mlp.experts
        assert inputs.shape == (48, 256)
        torch.testing.assert_close(gates.sum(1), torch.ones(48))  # of the two experts of a token
