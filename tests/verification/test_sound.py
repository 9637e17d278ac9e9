"""Sound artifacts raise nothing: every format, with and without their source, of every family that tests can make."""

import shutil
from pathlib import Path

import pytest
import torch

from sixfold.model.source import Source, open_source
from tests.exporters.exported import DEMO, silent
from tests.families import make_family
from tests.verification.artifacts import Artifacts, make_all
from tests.verification.corpus.changes import tensors
from tests.verification.damage import copy_folder, edit_config, in_shards
from verification.verify import verify

SHIPPED = ["bf16", "fp8", "nvfp4", "nvfp4-gb10", "awq"]
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


@pytest.mark.parametrize(
    "family", ["qwen3_moe", "mixtral", "deepseek_v3", "glm4_moe", "llama", "qwen3", "gemma2", "afmoe", "jamba"]
)
def test_other_families(family: str, tmp_path: Path) -> None:
    folder = make_family(family, tmp_path / family, vocab_size=2048)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO / name, folder / name)
    edit_config(folder, lambda config: config.update(eos_token_id=0, bos_token_id=0))
    source = open_source(folder)
    made = make_all(folder, tmp_path, ("bf16", "fp8", "nvfp4", "awq", "gguf-q4_k_m"))
    assert {"bf16", "fp8", "nvfp4", "awq"} <= set(made)
    for variant, path in made.items():
        assert verify(path, None, silent).findings == (), variant
        assert verify(path, source, silent).findings == (), variant
