"""Every key of a GGUF file that llama.cpp reads is compared: dropped, changed, added, or of another type, it is named.

The damages are made on what was read of one file, so that hundreds of them take a second.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sixfold.model.source import Source, open_source
from tests import every_family
from tests.exporters.exported import silent
from tests.exporters.ggml.gguf_tools import byte_level_tokenizer, export, recipe, save_tokenizer
from tests.families import make_family
from tests.verification.artifacts import Artifacts
from verification.finding import Finding, run_checks
from verification.structure.gguf import keys
from verification.structure.gguf.structure import open_gguf_subject
from verification.structure.gguf.subject import GgufSubject
from verification.structure.gguf.tensors import check_offsets
from verification.structure.gguf.tokenizer import check_tokenizer
from verification.verify import verify

GONE = object()
TYPES = {bool: "bool", int: "u32", float: "f32", str: "string", list: "[string]"}

_MAY_GO = {"general.type", "general.file_type", "tokenizer.ggml.padding_token_id", "tokenizer.ggml.unknown_token_id"}
_MAY_GO |= {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token", "tokenizer.ggml.token_type"}
"""What llama.cpp does without, or takes the same value for where it is missing."""


def changed(subject: GgufSubject, keys: Mapping[str, Any], types: Mapping[str, str] | None = None) -> GgufSubject:
    """The same file, had these keys been in its header."""
    held, kinds = dict(subject.file.keys), dict(subject.file.types)
    for name, value in keys.items():
        kinds[name] = TYPES.get(type(value), "u32")
        held[name] = value
        if value is GONE:
            del held[name], kinds[name]
    return replace(subject, file=replace(subject.file, keys=held, types={**kinds, **(types or {})}))


def found(subject: GgufSubject, key: str) -> list[Finding]:
    """By the checks that look at a key like this one."""
    return run_checks([check_tokenizer] if key.startswith("tokenizer.") else keys.CHECKS, subject)


def named(subject: GgufSubject, key: str) -> set[str]:
    return {finding.where for finding in found(subject, key) if finding.severity == "error"}


@pytest.fixture(scope="module")
def minimax(artifacts: Artifacts, demo: Source) -> GgufSubject:
    return open_gguf_subject(artifacts["gguf-q8_0"], demo)


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory: pytest.TempPathFactory) -> GgufSubject:
    """Groups, latents, dense layers, a factor of the gates, and YaRN."""
    root = tmp_path_factory.mktemp("deepseek")
    rope = {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    }
    stated = {"rope_parameters": rope, "n_group": 2, "topk_group": 1, "routed_scaling_factor": 2.5}
    folder = make_family("deepseek_v3", root / "model", **stated)
    save_tokenizer(byte_level_tokenizer([], size=300), folder)
    source = open_source(folder)
    _, file = export(source, recipe("BF16"), root)
    assert [f for f in verify(file, source, silent).findings if f.severity == "error"] == []
    return open_gguf_subject(file, source)


_DEFAULTS = ("vocab_size", "rope.freq_base", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow")
"""Keys whose values these two models have are those that the loader takes without them."""


def _optional(subject: GgufSubject, key: str) -> bool:
    return key in _MAY_GO or (key.startswith(("general.", "quantize.")) and key != "general.architecture")


@pytest.mark.parametrize("which", ["minimax", "deepseek"])
def test_a_key_that_is_gone(which: str, request: pytest.FixtureRequest) -> None:
    subject: GgufSubject = request.getfixturevalue(which)
    usual = ("attention.key_length", "attention.value_length") if which == "minimax" else ()
    free = {f"{subject.file.arch}.{key}" for key in (*usual, *_DEFAULTS)}
    for key in subject.file.keys:
        if not _optional(subject, key) and key not in free:
            assert named(changed(subject, {key: GONE}), key), key


@pytest.mark.parametrize("which", ["minimax", "deepseek"])
def test_a_number_that_is_another(which: str, request: pytest.FixtureRequest) -> None:
    subject: GgufSubject = request.getfixturevalue(which)
    for key, value in subject.file.keys.items():
        if key.startswith(subject.file.arch) and isinstance(value, (int, float)):
            other = not value if isinstance(value, bool) else value * 2 + 1
            assert key in named(changed(subject, {key: other}), key), key


@pytest.mark.parametrize("which", ["minimax", "deepseek"])
def test_a_number_of_another_type(which: str, request: pytest.FixtureRequest) -> None:
    subject: GgufSubject = request.getfixturevalue(which)
    for key, kind in subject.file.types.items():
        if key.startswith((subject.file.arch, "tokenizer.")) and kind in ("u32", "f32", "bool"):
            other = {"u32": "u64", "f32": "f64", "bool": "u8"}[kind]
            assert key in named(changed(subject, {}, {key: other}), "general.architecture"), key


ADDED: Mapping[str, Any] = {
    "minimax-m2.attention.causal": False,
    "minimax-m2.attention.sliding_window": 128,
    "minimax-m2.attention.scale": 0.5,
    "minimax-m2.expert_weights_scale": 2.0,
    "minimax-m2.expert_group_count": 4,
    "minimax-m2.leading_dense_block_count": 1,
    "minimax-m2.nextn_predict_layers": 1,
    "minimax-m2.rope.scale_linear": 4.0,
    "minimax-m2.rope.scaling.factor": 4.0,
    "minimax-m2.rope.scaling.attn_factor": 2.0,
    "minimax-m2.rope.scaling.yarn_log_multiplier": 0.1,
    "minimax-m2.logit_scale": 0.5,
    "minimax-m2.final_logit_softcapping": 30.0,
    "minimax-m2.pooling_type": 1,
    "tokenizer.ggml.eot_token_id": 7,
    "tokenizer.ggml.eom_token_id": 7,
    "tokenizer.ggml.add_eos_token": True,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.fim_pre_token_id": 500,
    "tokenizer.chat_template.tool_use": "{{ messages }}",
    "general.alignment": 48,
    "general.type": "adapter",
}
HARMLESS: Mapping[str, Any] = {
    "minimax-m2.attention.causal": True,
    "minimax-m2.rope.scaling.type": "none",
    "minimax-m2.rope.scaling.factor": 1.0,
    "minimax-m2.rope.scaling.finetuned": False,
    "minimax-m2.expert_weights_scale": 1.0,
    "minimax-m2.expert_group_count": 1,
    "minimax-m2.vocab_size": 2048,
    "general.author": "somebody",
    "general.url": "https://example.org",
}


@pytest.mark.parametrize("key", ADDED)
def test_a_key_that_was_added(key: str, minimax: GgufSubject) -> None:
    assert key in named(changed(minimax, {key: ADDED[key]}), key)


def test_keys_that_change_nothing(minimax: GgufSubject) -> None:
    for key, value in HARMLESS.items():
        assert found(changed(minimax, {key: value}), key) == [], key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.architecture", "llama"),
        ("general.architecture", "no-such-model"),
        ("tokenizer.ggml.pre", "qwen2"),
        ("tokenizer.ggml.pre", "llama-bpe"),
        ("tokenizer.ggml.pre", "no-such-name"),
        ("tokenizer.ggml.eos_token_id", 9),
        ("tokenizer.ggml.bos_token_id", 9),
        ("tokenizer.ggml.padding_token_id", 9),
        ("tokenizer.chat_template", "{{ messages }}"),
    ],
)
def test_values_of_another_model(key: str, value: object, minimax: GgufSubject) -> None:
    assert key in named(changed(minimax, {key: value}), key)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope.scaling.factor", 4.0),
        ("rope.scaling.attn_factor", 1.5),
        ("attention.causal", False),
        ("attention.value_length", 32),
        ("rope.dimension_count", 33),
        ("expert_gating_func", 9),
        ("attention.layer_norm_rms_epsilon", 0.0),
    ],
)
def test_what_the_file_contradicts_by_itself(key: str, value: object, minimax: GgufSubject) -> None:
    alone = replace(minimax, source=None)
    assert named(alone, key) == set()
    assert f"minimax-m2.{key}" in named(changed(alone, {f"minimax-m2.{key}": value}), key)


def test_an_architecture_of_which_only_the_common_keys_are_known(tmp_path: Path) -> None:
    folder = every_family.make_family("olmo2", tmp_path / "model")
    save_tokenizer(byte_level_tokenizer([], size=300), folder)
    source = open_source(folder)
    _, file = export(source, recipe("BF16"), tmp_path)
    subject = open_gguf_subject(file, source)
    assert named(subject, "olmo2") == set()
    for key in ("block_count", "context_length", "embedding_length", "attention.head_count", "rope.freq_base"):
        name = f"olmo2.{key}"
        assert name in named(changed(subject, {name: subject.file.keys[name] * 2 + 1}), name)


def test_token_types_and_a_first_offset(minimax: GgufSubject) -> None:
    kinds = list(minimax.file.keys["tokenizer.ggml.token_type"])
    special = kinds.index(3)
    for number, kind in ((special, 1), (special, 4), (300, 4), (300, 6), (300, 9)):
        damaged = [kind if n == number else held for n, held in enumerate(kinds)]
        keys = {"tokenizer.ggml.token_type": damaged}
        subject = changed(minimax, keys, {"tokenizer.ggml.token_type": "[i32]"})
        assert "tokenizer.ggml.token_type" in named(subject, "tokenizer.ggml.token_type")
    data = {name: start - 32 for name, start in minimax.file.data.items()}
    first = next(iter(minimax.file.tensors))
    moved = replace(minimax, file=replace(minimax.file, data=data))
    assert first in {finding.where for finding in check_offsets(moved)}
