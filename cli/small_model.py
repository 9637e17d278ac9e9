"""A small model with random weights, whose stages are run to measure a machine."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from sixfold.checkpoint.checkpoint import CONFIG
from sixfold.checkpoint.storage.safetensors_header import TORCH_DTYPES
from sixfold.checkpoint.storage.tensor_file import write_tensors
from sixfold.model.bare_config import open_config
from sixfold.model.source import Source, open_source

_DEVIATION = 0.02
_END = "<|endoftext|>"
_VOCABULARY = 512


@dataclass(frozen=True)
class Shape:
    """Of a mixture-of-experts model with one decoder layer."""

    hidden: int
    inner: int
    experts: int


ON_CPU, ON_GPU = Shape(512, 512, 2), Shape(3072, 1536, 8)
"""A GPU needs matrices as large as those of large models, and several side by side; a core has the same rate for a
few."""
WALKED_ON_CPU, WALKED_ON_GPU = Shape(512, 512, 4), Shape(3072, 1536, 24)
"""Whose walks take several seconds beyond their start-up."""


def small_model(folder: Path, shape: Shape) -> Source:
    """Writes it, with a tokenizer of single bytes but for one pair."""
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(_config(shape)))
    _write_tokenizer(folder)
    described = open_config(folder / CONFIG, str(folder))
    random = torch.Generator().manual_seed(0)

    def drawn(name: str, size: tuple[int, ...], dtype: str) -> torch.Tensor:
        of = torch.ones(size) if name.endswith("norm.weight") else torch.randn(size, generator=random) * _DEVIATION
        return of.to(TORCH_DTYPES[dtype])

    tensors = {name: drawn(name, of.shape, of.dtype) for name, of in described.tensors.items()}
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    return open_source(folder)


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "dtype": "bfloat16",
        "vocab_size": _VOCABULARY,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "moe_intermediate_size": shape.inner,
        "num_experts": shape.experts,
        "num_experts_per_tok": min(2, shape.experts),
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        "mlp_only_layers": [],
        "decoder_sparse_step": 1,
        "norm_topk_prob": True,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "eos_token_id": 257,
    }


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = ("a", "b")  # llama.cpp takes no tokenizer without any
    tokenizer = Tokenizer(models.BPE({of: number for number, of in enumerate([*letters, "".join(merged)])}, [merged]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(_END)])
    tokenizer.save(str(folder / "tokenizer.json"))
    kept = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": _END, "model_max_length": 4096}
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(kept | {"chat_template": template}))
