"""Families through every stage: what `plan` promises is made and sound, and all else is refused in a sentence."""

import json
from pathlib import Path

import pytest

from benchmarks.soundness.family_stages import FORMATS, Result, sweep
from cli.options import load_formats
from exporters.export.planning import plan_all
from sixfold.model.source import open_source
from tests import families
from tests.every_family import families as every_family
from tests.every_family import make_family as make_every_family

KINDS = ("bf16", "nvfp4-gb10", "awq", "gguf-q4_k_m")
QUICK: dict[str, tuple[int, tuple[str, ...]]] = {
    "qwen3_5_moe": (5, KINDS),
    "jamba": (5, KINDS),
    "longcat_flash": (5, FORMATS),
    "gpt_oss": (3, ("bf16", "nvfp4")),
    "gemma4_text": (2, ("gguf-q4_k_m",)),
    "step3p7": (2, ("gguf-q4_k_m",)),
    "dbrx": (3, FORMATS),
}
"""A tower and a delta net; Mamba; experts out of sight; stacks; heads of two sizes, and of two numbers; experts in one
array that GGUF alone takes. How many of the stages they pass, as refusals alone would be no defects either, and of
which formats."""


def defects(results: list[Result]) -> list[Result]:
    return [result for result in results if not result.sound]


@pytest.mark.parametrize(("family", "expected"), QUICK.items())
def test_a_family_passes_or_is_refused_in_a_sentence(
    family: str, expected: tuple[int, tuple[str, ...]], tmp_path: Path
) -> None:
    passed, formats = expected
    results = list(sweep(family, tmp_path, formats, "nearest"))
    assert defects(results) == []
    assert sum(result.verdict == "ok" for result in results) == passed


@pytest.mark.engines
@pytest.mark.parametrize("family", [family for family in every_family() if family not in QUICK])
def test_every_other_family(family: str, tmp_path: Path) -> None:
    assert defects(list(sweep(family, tmp_path))) == []


@pytest.mark.parametrize("flag", ["output_router_logits", "output_hidden_states", "output_attentions", "use_cache"])
def test_flags_of_outputs_change_nothing(flag: str, tmp_path: Path) -> None:
    """As trainers leave them in config.json."""
    folder = families.make_family("mixtral", tmp_path)
    before = open_source(folder).architecture
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, flag: not config.get(flag, False)}))
    assert open_source(folder).architecture == before
    assert all(norm.readers for norm in before.norms if "layernorm" in norm.weight)


def test_a_forward_that_fails_as_config_says_is_told_so(tmp_path: Path) -> None:
    """DBRX's clamps queries to a bound that config.json has to state."""
    make_every_family("dbrx", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["attn_config"]["clip_qkv"] = None
    (tmp_path / "config.json").write_text(json.dumps(config))
    (planned,) = plan_all(open_source(tmp_path), load_formats(("gguf-q4_k_m",), ()))
    assert planned.refusal is not None
    assert "DbrxForCausalLM does not run as config.json says" in str(planned.refusal)
