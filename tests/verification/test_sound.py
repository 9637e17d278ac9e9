"""Sound artifacts raise nothing: every format, with and without their source, of every family that tests can make."""

import shutil
from pathlib import Path

import pytest
import torch

from sixfold.model.source import Source, open_source
from tests.exporters.export.counted_reads import counted_reads
from tests.exporters.exported import DEMO, silent
from tests.families import COMMON, FAMILIES, make_family
from tests.verification.artifacts import Artifacts, make_all
from tests.verification.corpus.changes import tensors
from tests.verification.damage import copy_folder, edit_config, in_shards
from verification.verify import verify

SHIPPED = ["bf16", "fp8", "nvfp4", "nvfp4-gb10", "mxfp4", "awq"]
GGUF = ["gguf-q3_k_m", "gguf-iq4_xs", "gguf-q4_k_m", "gguf-q6_k", "gguf-q8_0"]
LAYOUTS = ["fp8-block", "fp8-modelopt", "nvfp4-modelopt", "nvfp4a16-modelopt", "awq-packed"]


@pytest.mark.parametrize("variant", [*SHIPPED, *GGUF, *LAYOUTS])
def test_every_format_of_the_bundled_model(variant: str, artifacts: Artifacts, demo: Source) -> None:
    assert verify(artifacts[variant], None, silent).findings == ()
    against = verify(artifacts[variant], demo, silent)
    assert against.findings == ()
    assert {error.name for error in against.errors or ()} == set(demo.checkpoint.tensors)


def test_the_source_itself_is_sound(demo: Source) -> None:
    assert verify(DEMO, demo, silent).findings == ()


def test_correction_biases_that_the_source_has_in_bf16(demo: Source, tmp_path: Path) -> None:
    """As models that are saved in BF16 have them: not wrong without a source, and rounded if the source is in F32."""

    def round_biases(found: dict[str, torch.Tensor]) -> None:
        found.update({name: x.bfloat16() for name, x in found.items() if name.endswith("correction_bias")})

    folder = copy_folder(DEMO, tmp_path / "saved-in-bf16")
    tensors(round_biases)(folder)
    assert verify(folder, open_source(folder), silent).findings == ()
    alone = verify(folder, None, silent)
    assert alone.failures == ()
    assert {finding.check for finding in alone.findings} == {"plain.dtype"}
    assert {finding.check for finding in verify(folder, demo, silent).failures} >= {"plain.dtype"}


def test_shards_with_an_index(artifacts: Artifacts, demo: Source, tmp_path: Path) -> None:
    shutil.copytree(artifacts["nvfp4"], tmp_path / "sharded", ignore=shutil.ignore_patterns("manifest.json"))
    in_shards(tmp_path / "sharded")
    assert verify(tmp_path / "sharded", demo, silent).findings == ()


def test_one_factor_for_all_channels_cancels_too(artifacts: Artifacts, demo: Source, tmp_path: Path) -> None:
    """A norm divided by 1.25 throughout, and every reader multiplied; an expert's w3 by 1.5 more, and its w2 divided.

    A reader that was left out is named, and a w3 that no w2 makes up for.
    """
    folder = copy_folder(artifacts["fp8"], tmp_path / "smoothed")
    moe = "model.layers.1.block_sparse_moe"
    readers = [f"{moe}.experts.{n}.{w}.weight_scale" for n in range(8) for w in ("w1", "w3")]

    def smooth(found: dict[str, torch.Tensor]) -> None:
        found["model.layers.1.post_attention_layernorm.weight"] /= 1.25
        for name in (f"{moe}.gate.weight", *readers):
            found[name] *= 1.25
        found[f"{moe}.experts.2.w3.weight_scale"] *= 1.5
        found[f"{moe}.experts.2.w2.weight_scale"] /= 1.5

    tensors(smooth)(folder)
    assert verify(folder, demo, silent).findings == ()
    tensors(lambda found: found[readers[0]].div_(1.25))(folder)
    assert {finding.where for finding in verify(folder, demo, silent).findings} == {f"{moe}.experts.0.w1.weight"}
    tensors(lambda found: found[f"{moe}.experts.2.w2.weight_scale"].mul_(1.5))(folder)
    assert f"{moe}.experts.2.w3.weight" in {finding.where for finding in verify(folder, demo, silent).findings}


OF_ZEROS = ("bf16", "fp8", "nvfp4", "nvfp4-gb10", "awq", "gguf-q4_k_m", "gguf-q6_k")


@pytest.mark.parametrize("variant", OF_ZEROS)
def test_experts_of_zeros(variant: str, with_zeros: Artifacts, pruned_to_zero: Source) -> None:
    """One whole, as tools prune them; of others the matrix before, or the one behind."""
    assert verify(with_zeros[variant], None, silent).findings == ()
    assert verify(with_zeros[variant], pruned_to_zero, silent).findings == ()


@pytest.fixture(scope="module")
def pruned_to_zero(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("zeros") / "model"
    shutil.copytree(DEMO, folder)
    moe = "model.layers.{}.block_sparse_moe.experts.{}.{}"

    def zero(found: dict[str, torch.Tensor]) -> None:
        for part in ("w1", "w2", "w3"):
            found[moe.format(1, 3, part) + ".weight"].zero_()
        found[moe.format(0, 5, "w2") + ".weight"].zero_()
        found[moe.format(0, 6, "w3") + ".weight"].zero_()

    tensors(zero)(folder)
    return open_source(folder)


@pytest.fixture(scope="module")
def with_zeros(pruned_to_zero: Source, tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return make_all(pruned_to_zero.checkpoint.folder, tmp_path_factory.mktemp("of-zeros"), OF_ZEROS)


@pytest.mark.parametrize("family", ["phimoe", "starcoder2", "qwen2", "olmo2", "flex_olmo"])
def test_biases_and_norms_that_come_after(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A norm's bias is divided along with its weight, a value projection's with its rows; olmo2's norms come after."""
    monkeypatch.setitem(FAMILIES, family, {**COMMON, **WITH_BIASES[family]})
    folder = make_family(family, tmp_path / family, vocab_size=2048)
    generator = torch.Generator().manual_seed(1)

    def spread(found: dict[str, torch.Tensor]) -> None:
        for name, tensor in found.items():
            if tensor.dim() == 1:
                middle = 0.0 if name.endswith("bias") else 1.0
                found[name] = (middle + 0.2 * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)

    tensors(spread)(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO / name, folder / name)
    for name in ("config.json", "generation_config.json"):
        edit_config(folder, lambda config: config.update(eos_token_id=0, bos_token_id=0), name)
    (artifact,) = make_all(folder, tmp_path, ("awq",)).values()
    assert verify(artifact, open_source(folder), silent).findings == ()


WITH_BIASES: dict[str, dict[str, object]] = {
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2, "attention_bias": True},
    "starcoder2": {"use_bias": True},
    "qwen2": {"num_key_value_heads": 4},
    "olmo2": {"pad_token_id": 0, "num_key_value_heads": 4},
    "flex_olmo": {"pad_token_id": 0, "num_key_value_heads": 4, "num_experts": 4, "num_experts_per_tok": 2},
}


ALL = "deepseek_v3"
"""Its rows of several lengths take the types that presets fall back to; the presets of other families are held against
llama-quantize in tests/exporters/ggml/test_gguf_bytes.py."""
NAMED = ("qwen3_moe", "mixtral", "llama", "qwen3")
"""The others that the project names: every layout in safetensors, and one GGUF."""


@pytest.mark.parametrize("family", [ALL, *NAMED, "glm4_moe", "gemma2", "afmoe", "jamba"])
def test_other_families(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights, the demo's tokenizer; all formats come from one read of the weights, with AWQ's search."""
    folder = make_family(family, tmp_path / family, vocab_size=2048)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO / name, folder / name)
    edit_config(folder, lambda config: config.update(eos_token_id=0, bos_token_id=0))
    source = open_source(folder)
    formats = ("bf16", "fp8", "nvfp4", "awq", "gguf-q4_k_m")
    if family == ALL:
        formats = ("all-formats",)
    elif family in NAMED:
        formats = (*formats, "nvfp4-gb10")
    with counted_reads(monkeypatch) as counts:
        made = make_all(folder, tmp_path, formats)
    assert sum(counts) == sum(tensor.nbytes for tensor in source.checkpoint.tensors.values())
    assert {"bf16", "fp8", "nvfp4", "awq"} <= set(made)
    assert family not in (ALL, *NAMED) or len(made) == {ALL: 10}.get(family, 6)
    for variant, path in made.items():
        assert verify(path, None, silent).findings == (), variant
        left = [f for f in verify(path, source, silent).findings if f.check != "drafts.declared"]
        assert left == [], variant  # the two that declare MTP layers have none, as their sources
