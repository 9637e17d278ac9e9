"""A GPU gets what a processor reads of a stacked site, all experts at once."""

from pathlib import Path
from typing import Any

import torch

from sixfold.checkpoint.storage.tensor_file import write_tensors
from sixfold.statistics.expert_sums import _AT_ONCE, expert_sums
from sixfold.statistics.moments import pack
from sixfold.statistics.statistics import Statistics, layer_file
from tests.pretended_device import pretended

EXPERTS, CHANNELS = _AT_ONCE + 3, 12
SITE = "model.layers.0.mlp.experts.*.up"


def statistics(folder: Path) -> Statistics:
    """Of one site, as a pass leaves them; wide_: what two starved experts read of extra tokens."""
    random = torch.Generator().manual_seed(0)
    tensors: dict[str, Any] = {}
    for prefix, experts in (("", EXPERTS), ("wide_", 2)):
        rows = torch.randn(experts, 40, CHANNELS, generator=random)
        products = rows.mT @ rows
        tensors |= {
            f"{SITE}/{prefix}moments": pack(products),
            f"{SITE}/{prefix}sum_sq": products.diagonal(dim1=1, dim2=2).contiguous(),
            f"{SITE}/{prefix}count": torch.arange(experts) * 10,
        }
    tensors[f"{SITE}/first"] = torch.randn(EXPERTS, CHANNELS, generator=random)
    tensors[f"{SITE}/first_count"] = torch.arange(EXPERTS)
    write_tensors(folder / layer_file(0), tensors)
    entry = {"layer": 0, "experts": EXPERTS, "linears": [SITE]}
    return Statistics(folder, {"sites": {SITE: entry}, "profile": {"moments": True}, "moe": {}, "files": {}})


def test_a_gpu_has_what_the_file_has(tmp_path: Path) -> None:
    found = statistics(tmp_path)
    with pretended() as device:
        there = {prefix: expert_sums(found, SITE, prefix, device) for prefix in ("", "wide_")}
        products = {(p, row): there[p].products(row).tolist() for p, row in (("", 0), ("", EXPERTS - 1), ("wide_", 1))}
        first, firsts = there[""].first(EXPERTS - 1)
    for (prefix, row), values in products.items():
        here = expert_sums(found, SITE, prefix, torch.device("cpu"))
        assert values == here.products(row).tolist()
        assert there[prefix].count(row) == here.count(row)
    own, of_own = expert_sums(found, SITE, "", torch.device("cpu")).first(EXPERTS - 1)
    assert (first.tolist(), firsts) == (own.tolist(), of_own)
