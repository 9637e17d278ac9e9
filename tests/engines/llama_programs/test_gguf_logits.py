"""llama.cpp computes with our files what transformers does with the checkpoint, for every family that it has."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.models.hy_v4 import modeling_hy_v4
from transformers.models.phimoe import modeling_phimoe

from sixfold.model.source import open_source
from tests import every_family
from tests.drafts import add_drafts
from tests.engines.llama_programs.test_gguf_as_published import DEEPSEEK_4, LONG, QWEN_4, tabled
from tests.engines.llama_programs.test_gguf_converter import FALCON, FALCON_H1, changed
from tests.exporters.ggml.gguf_tools import byte_level_tokenizer, export, recipe, save_tokenizer, spread
from tests.exporters.ggml.test_gguf_llama_cpp import llama_logits
from tests.gguf_families import ORDINARY

pytestmark = pytest.mark.engines

_SEEING = (
    "deepseek_vl deepseek_vl_hybrid got_ocr2 idefics2 idefics3 internvl lfm2_vl lighton_ocr llava llava_next"
    " llava_next_video llava_onevision minicpmv4_6 ovis2 pp_chart2table smolvlm video_llama_3 video_llava vipllava"
).split()
"""Models around a decoder that is known alone."""

_WINDOWED = ["sliding_attention"] * 3 + ["full_attention"]
_STRETCHED = {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 1000.0, "factor": 1.0}
_ALIKE = {"rope_theta": 500000.0, "rope_type": "default"}
FAMILIES: dict[str, Mapping[str, Any]] = {
    **{family: {} for family in _SEEING},
    **{family: ordinary.changes for family, ordinary in ORDINARY.items()},
    "apertus": {},
    "bamba": {},
    "bloom": {},
    "cohere2": {},
    "cohere2_moe": {},
    "dbrx": {},
    "deepseek_v32": {"index_topk": 256},  # with fewer, llama.cpp's indexer chooses others than transformers'
    "falcon": {},
    "falcon of two norms": FALCON,
    "falcon_h1": FALCON_H1,
    "falcon_mamba": {},
    "glm": {},
    "glm46v": {},
    "glm4v": {},
    "glm4v_moe": {},
    # Of so few channels transformers and llama.cpp would differ in how far they spread: by N, and by N - 1.
    "gemma3n_text": {"activation_sparsity_pattern": [0.95] * 4, "intermediate_size": [4096] * 4},
    "gemma4_text": {},
    "gemma4_unified": {},
    "glm_moe_dsa": {"index_topk": 256},
    "glm_ocr": {},
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neox": {},
    "granite_swa": {},
    "granitemoe_swa": {},
    "granitemoehybrid": {},
    "granitemoehybrid without recurrent layers": {
        "layer_types": ["full_attention"] * 4,
        "position_embedding_type": "rope",
    },
    "granitemoeshared": {},
    "hunyuan_v1_dense": {"rope_parameters": _STRETCHED},
    "hunyuan_v1_moe": {"rope_parameters": _STRETCHED},
    "hunyuan_vl": {},
    "hrm_text": {"num_hidden_layers": 2},  # in each of two stacks, which run 8 times
    "hy_v3": {},
    "jais2": {},
    "jamba": {},
    "kimi_linear": {"num_expert_group": 1},
    "laguna": {"layer_types": _WINDOWED[::-1]},
    "lfm2_moe": {},
    "llama4_text": {"num_experts_per_tok": 1},
    "mamba": {},
    "mamba2": {"n_groups": 1},  # of several, transformers takes the norm over all at once
    # llama.cpp turns windows and full attention by one base.
    "mellum": {"layer_types": _WINDOWED, "rope_parameters": dict.fromkeys(set(_WINDOWED), _ALIKE)},
    "mimo_v2_flash": {"n_group": 1},
    "minicpm3": {},
    "minimax_m3_vl": {},
    "mistral4": {},
    "mpt": {},
    "nemotron": {},
    "nemotron_h": {"layers_block_type": ["linear_attention", "moe", "full_attention", "moe"]},
    "nemotron_h with experts of latents": {
        "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"],
        "moe_latent_size": 64,
    },
    "olmo": {},
    "paddleocr_vl": {},
    "phi": {},
    "phi3 in long contexts": {"max_position_embeddings": 512, "rope_parameters": {**LONG}},
    "qwen3_next": {"linear_num_value_heads": 4},
    "qwen4_exp_text": {**QWEN_4, "indexer_budget": 256},
    "solar_open": {},
    "stablelm": {},
    "step3p7": {},
    "youtu": {},
}
"""With changes of their configs. What comes behind a space says what is changed."""

DRAFTING: dict[str, dict[str, Any]] = {"glm4_moe": {}, "qwen3_5_moe_text": {"around": True}}
"""With an MTP layer, which llama.cpp loads and does not run unasked; and how `add_drafts` makes it."""

CLOSE = {
    **{family: ordinary.close for family, ordinary in ORDINARY.items()},
    **dict.fromkeys(("bloom", "gemma4_text", "gemma4_unified", "gpt2", "gpt_bigcode", "gpt_neox", "mpt", "phi"), 1e-3),
    **dict.fromkeys(("falcon", "gemma3n_text", "falcon of two norms"), 1e-3),
    "granitemoehybrid without recurrent layers": 2e-4,
    "hunyuan_vl": 3e-4,
}
"""Of the norm of all logits, where not 1e-4, of which float32 summed in another order loses a tenth: ggml looks GELU up
in half precision, and turns the fourth axis of HunyuanVL by nothing, which a stretched base hides for as many tokens.
Of Granite 1.02e-4 were seen, in one run."""


def transformers_logits(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    from transformers import AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    seeing = open_source(folder).checkpoint.config["model_type"] in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    auto = AutoModelForImageTextToText if seeing else AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=tokens.unsqueeze(0)).logits[0]
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    folder = every_family.make_family(family.partition(" ")[0], tmp_path / "model", **FAMILIES[family])
    compare_logits(folder, tmp_path, CLOSE.get(family, 1e-4))


def test_logits_of_deepseek_v4(tmp_path: Path) -> None:
    folder = every_family.make_family("deepseek_v4", tmp_path / "model", **DEEPSEEK_4)
    tabled(folder)
    compare_logits(folder, tmp_path, 1e-4)


def test_logits_of_glm_5_next(tmp_path: Path) -> None:
    folder = every_family.make_family("glm5_next", tmp_path / "model")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    changed(folder, text_config={**text, "index_topk": 256})  # all: of equal scores each chooses its own
    compare_logits(folder, tmp_path, 1e-4)


def test_logits_of_hy_v4_that_turns_neighbors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of two the published weights are made for, llama.cpp and transformers do not agree upon."""

    def neighbors(
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
    ) -> Any:
        half = cos.shape[-1] // 2
        turn = torch.complex(cos[..., :half], sin[..., :half]).unsqueeze(unsqueeze_dim)
        pairs = (torch.view_as_complex(x.unflatten(-1, (half, 2)).contiguous()) for x in (q, k))
        return tuple(torch.view_as_real(x * turn).flatten(-2) for x in pairs)

    monkeypatch.setattr(modeling_hy_v4, "apply_rotary_pos_emb", neighbors)
    folder = every_family.make_family("hy_v4", tmp_path / "model", n_group=1, index_topk=256)
    compare_logits(folder, tmp_path, 1e-4)


@pytest.mark.parametrize("residual", [1.0, 3.5])
def test_logits_of_minimax_01(residual: float, tmp_path: Path) -> None:
    """With decays in float32, which BF16 would round and llama.cpp computes."""
    residuals = dict.fromkeys(("full_attn_alpha_factor", "linear_attn_alpha_factor", "mlp_alpha_factor"), residual)
    folder = every_family.make_family("minimax", tmp_path / "model", **residuals)
    exact = AutoModelForCausalLM.from_config(every_family.tiny_config("minimax"), dtype=torch.float32)
    decays = {name: t.contiguous() for name, t in exact.named_buffers() if name.endswith(("_decay", "slope_rate"))}
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, **decays}, folder / "model.safetensors", {"format": "pt"})
    compare_logits(folder, tmp_path, 1e-4)


def test_logits_of_a_phimoe_of_other_norms_and_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp does not subtract the mean and takes the softmax of the chosen experts' scores, and all else is what
    transformers does."""

    class WithoutMean(torch.nn.LayerNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight + self.bias

    def softmax(scores: torch.Tensor, jitter_eps: float, training: bool, top_k: int) -> Any:
        weights, chosen = scores.softmax(-1).topk(top_k)
        return weights / weights.sum(-1, keepdim=True), chosen

    monkeypatch.setattr(modeling_phimoe, "sparsemixer", softmax)
    monkeypatch.setattr(modeling_phimoe.nn, "LayerNorm", WithoutMean)
    compare_logits(every_family.make_family("phimoe", tmp_path / "model"), tmp_path, 1e-4)


@pytest.mark.parametrize("family", DRAFTING)
def test_mtp_layers_change_nothing(family: str, tmp_path: Path) -> None:
    folder = add_drafts(every_family.make_family(family, tmp_path / "model"), **DRAFTING[family])
    compare_logits(folder, tmp_path, 1e-4)


def compare_logits(folder: Path, tmp_path: Path, close: float) -> None:
    spread(folder)
    save_tokenizer(byte_level_tokenizer([], size=300), folder)
    _, file = export(open_source(folder), recipe("F32"), tmp_path)
    tokens = torch.randint(0, 300, (100,), generator=torch.Generator().manual_seed(2))
    ours, theirs = llama_logits(file, tokens.tolist(), tmp_path / "logits.npy"), transformers_logits(folder, tokens)
    assert torch.linalg.vector_norm(ours - theirs) < close * torch.linalg.vector_norm(theirs)
