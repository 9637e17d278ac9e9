from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from sixfold.model.source import open_source
from sixfold.runner.causal_attention import causal_attention, fast_causal_attention
from sixfold.runner.whole_model import load_model
from tests.families import make_family

pytestmark = pytest.mark.arithmetic

CPU = torch.device("cpu")
DEMO = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m"


def drawn(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def literal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    shared = query.shape[1] // key.shape[1]
    q, k, v = query.double(), *(t.double().repeat_interleave(shared, 1) for t in (key, value))
    scores = scale * q @ k.mT
    return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(-1) @ v


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
@pytest.mark.parametrize(("heads", "key_heads", "channels", "width"), [(4, 4, 16, 16), (6, 2, 32, 32), (3, 3, 24, 8)])
def test_it_is_softmax_over_what_came_before(
    length: int, heads: int, key_heads: int, channels: int, width: int
) -> None:
    query, key, value = drawn(
        (3, heads, length, channels), (3, key_heads, length, channels), (3, key_heads, length, width)
    )
    found = causal_attention(query, key, value, 0.3)
    torch.testing.assert_close(found.double(), literal(query, key, value, 0.3), rtol=1e-4, atol=1e-5)


def test_samples_that_do_not_fit_together_are_computed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = drawn((5, 4, 130, 8), (5, 2, 130, 8), (5, 2, 130, 8))
    at_once = causal_attention(query, key, value, 1.0)
    monkeypatch.setattr("sixfold.runner.causal_attention._SCORES", 3 * 2 * 64 * 130)
    torch.testing.assert_close(causal_attention(query, key, value, 1.0), at_once, rtol=1e-5, atol=1e-6)


def test_bf16_is_rounded_once_and_so_closer_than_torchs_kernel() -> None:
    query, key, value = drawn((4, 8, 300, 64), (4, 2, 300, 64), (4, 2, 300, 64), dtype=torch.bfloat16)
    exact = literal(query, key, value, 0.125)
    ours = causal_attention(query, key, value, 0.125)
    torchs = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    assert ours.dtype is torch.bfloat16
    assert bool(((ours.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-5).all())
    assert (ours.double() - exact).norm() < (torchs.double() - exact).norm()


@pytest.mark.parametrize("family", ["demo", "deepseek_v3", "mixtral"])
def test_models_compute_the_same_with_it(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted_calls(monkeypatch)
    model, ids = opened(DEMO if family == "demo" else make_family(family, tmp_path))
    with torch.inference_mode():
        theirs = model(input_ids=ids, use_cache=False).logits
        assert not calls
        with fast_causal_attention(CPU):
            ours = model(input_ids=ids, use_cache=False).logits
        assert len(calls) == model.config.num_hidden_layers
        assert torch.equal(model(input_ids=ids, use_cache=False).logits, theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_masks_go_to_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gpt-oss has sinks, and sees a window in every second layer; both are not for us."""
    calls = counted_calls(monkeypatch)
    model, ids = opened(make_family("gpt_oss", tmp_path))
    with torch.inference_mode():
        theirs = model(input_ids=ids, use_cache=False).logits
        with fast_causal_attention(CPU):
            assert torch.equal(model(input_ids=ids, use_cache=False).logits, theirs)
            padding = torch.ones_like(ids)
            padding[:, 0] = 0
            masked, plain = opened(DEMO)
            masked(input_ids=plain, attention_mask=padding, use_cache=False)
    assert not calls


def opened(folder: Path) -> tuple[Any, torch.Tensor]:
    source = open_source(folder)
    ids = torch.randint(3, source.checkpoint.config["vocab_size"], (2, 80), generator=torch.Generator().manual_seed(1))
    return load_model(source, dtype=torch.float32, device=CPU), ids


def counted_calls(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    calls: list[None] = []

    def counting(*arguments: Any) -> torch.Tensor:
        calls.append(None)
        return causal_attention(*arguments)

    monkeypatch.setattr("sixfold.runner.causal_attention.causal_attention", counting)
    return calls
