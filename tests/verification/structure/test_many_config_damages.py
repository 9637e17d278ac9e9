"""Every field of config.json and of quantization_config is compared, whatever it is called.

The damages are made on what was read of one folder, so that hundreds of them take a second.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sixfold.model.source import Source
from tests.verification.artifacts import Artifacts
from verification.finding import Finding, run_checks
from verification.reading.declared import declared
from verification.reading.subject import Subject
from verification.structure import config, parts, quantization_config
from verification.structure.folder_structure import open_subject

CHECKS = [
    config.check_against_source,
    config.check_counts,
    config.check_needed,
    quantization_config.check_fields,
    quantization_config.check_classes,
    quantization_config.check_expressions,
    parts.check_method,
    parts.check_compressed_tensors,
    parts.check_cache,
    parts.check_parts,
    parts.check_ignore,
]
Change = Callable[[dict[str, Any]], Any]


def with_config(subject: Subject, change: Change) -> Subject:
    """The same folder, had its config.json been this one."""
    held = copy.deepcopy(dict(subject.folder.config))
    change(held)
    return replace(subject, folder=replace(subject.folder, config=held), declared=declared(held))


def found(subject: Subject) -> list[Finding]:
    return run_checks(CHECKS, subject)


@pytest.fixture(scope="module")
def subjects(artifacts: Artifacts, demo: Source) -> dict[str, Subject]:
    names = ("fp8", "nvfp4", "nvfp4-gb10", "awq", "awq-packed", "fp8-block", "nvfp4-modelopt", "bf16")
    return {name: open_subject(artifacts[name], demo) for name in names}


def test_every_field_that_is_another_or_gone(subjects: dict[str, Subject]) -> None:
    subject = subjects["bf16"]
    harmless = {"dtype", "torch_dtype", "transformers_version", "use_cache", "initializer_range", "attention_dropout"}
    harmless |= {"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"}
    for key, value in subject.folder.config.items():
        other = not value if isinstance(value, bool) else value * 3 + 1 if isinstance(value, (int, float)) else "other"
        wrong = found(with_config(subject, lambda c, k=key, v=other: c.__setitem__(k, v)))  # type: ignore[misc]
        assert any(key in finding.where for finding in wrong) != (key in harmless), key
    for key in ("scoring_func", "rotary_dim", "use_qk_norm", "num_mtp_modules", "attn_type_list", "qk_norm_type"):
        wrong = found(with_config(subject, lambda c, k=key: c.pop(k)))  # type: ignore[misc]
        assert any(key in finding.where for finding in wrong), key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("is_causal", False),
        ("index_topk", 2048),
        ("auto_map", {"AutoModelForCausalLM": "modeling_other.Other"}),
        ("dual_chunk_attention_config", {"chunk_size": 1024}),
        ("sliding_window", 128),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("partial_rotary_factor", 1.0),
        ("attn_logit_softcapping", 30.0),
        ("layer_types", ["sliding_attention", "full_attention"]),
        ("swiglu_limit", 7.0),
        ("num_nextn_predict_layers", 1),
        ("a_field_that_nobody_has_seen", 3),
    ],
)
def test_a_field_that_was_added(key: str, value: object, subjects: dict[str, Subject]) -> None:
    wrong = found(with_config(subjects["fp8"], lambda c: c.__setitem__(key, value)))
    assert any(key in finding.where for finding in wrong)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("transformers_version", "4.0"),
        ("use_cache", False),
        ("_name_or_path", "/somewhere"),
        ("torch_dtype", "float16"),
        ("rope_scaling", None),
        ("unsloth_fixed", True),
    ],
)
def test_what_changes_nothing(key: str, value: object, subjects: dict[str, Subject]) -> None:
    assert found(with_config(subjects["fp8"], lambda c: c.__setitem__(key, value))) == []


def test_what_transformers_fills_in(subjects: dict[str, Subject]) -> None:
    """A library that saves the config again writes all defaults of its class."""
    from sixfold.model.meta_model import transformers_config

    stated = subjects["bf16"].folder.config
    filled = transformers_config(stated).to_dict()
    assert found(with_config(subjects["bf16"], lambda c: c.update({**filled, **stated}))) == []


def _group(quantization: dict[str, Any]) -> dict[str, Any]:
    group: dict[str, Any] = next(iter(quantization["config_groups"].values()))
    return group


QUANTIZATION: list[tuple[str, Change, str]] = [
    ("fp8", lambda q: q["ignore"].append("Linear"), "ignore"),
    ("fp8", lambda q: q["ignore"].append("re:(.*)*x(.*)*y$("), "ignore"),
    ("fp8", lambda q: q.update(quant_method="gptq"), "quant_method"),
    ("fp8", lambda q: q.update(quant_method="fp8"), "config.json"),
    ("fp8", lambda q: q.update(transform_config={"config_groups": {"u": {"type": "hadamard"}}}), "transform_config"),
    ("fp8", lambda q: q.update(sparsity_config={"format": "sparse-24-bitmask"}), "sparsity_config"),
    ("fp8", lambda q: q.update(kv_cache_scheme={"num_bits": 8, "type": "float", "dynamic": False}), "kv_cache"),
    ("fp8", lambda q: q.update(a_new_field=3), "a_new_field"),
    ("fp8", lambda q: q.update(config_groups={}), "config_groups"),
    ("fp8", lambda q: _group(q)["weights"].update(num_bits=4), "num_bits"),
    ("fp8", lambda q: _group(q)["weights"].update(type="int"), "type"),
    ("fp8", lambda q: _group(q)["weights"].update(symmetric=False), "symmetric"),
    ("fp8", lambda q: _group(q)["weights"].update(dynamic=True), "dynamic"),
    ("fp8", lambda q: _group(q)["weights"].update(no_such_argument=1), "no_such_argument"),
    ("fp8", lambda q: _group(q)["input_activations"].update(num_bits=4), "num_bits"),
    ("fp8", lambda q: _group(q)["input_activations"].update(type="int"), "type"),
    ("fp8", lambda q: _group(q)["input_activations"].update(symmetric=False), "symmetric"),
    ("fp8", lambda q: _group(q).update(output_activations={"num_bits": 8}), "output_activations"),
    ("nvfp4", lambda q: _group(q)["weights"].update(group_size=32), "group_size"),
    ("nvfp4", lambda q: _group(q)["weights"].update(strategy="group"), "strategy"),
    ("nvfp4", lambda q: _group(q)["weights"].update(type="int"), "type"),
    ("nvfp4-gb10", lambda q: _group(q)["input_activations"].update(num_bits=8), "num_bits"),
    ("awq-packed", lambda q: _group(q)["weights"].update(type="float"), "type"),
    ("awq-packed", lambda q: _group(q)["weights"].update(symmetric=True), "zero_point"),
    (
        "awq-packed",
        lambda q: _group(q).update(input_activations={"num_bits": 8, "type": "int", "dynamic": True}),
        "input_activations",
    ),
    ("awq", lambda q: q.update(bits=8), "config.json"),
    ("awq", lambda q: q.update(quant_method="gptq"), "quant_method"),
    ("awq", lambda q: q.update(desc_act=True), "desc_act"),
    ("nvfp4-modelopt", lambda q: q.update(group_size=32), "group_size"),
]


@pytest.mark.parametrize(("variant", "change", "where"), QUANTIZATION)
def test_what_the_tensors_contradict(variant: str, change: Change, where: str, subjects: dict[str, Subject]) -> None:
    for subject in (subjects[variant], replace(subjects[variant], source=None)):
        wrong = found(with_config(subject, lambda c: change(c["quantization_config"])))
        assert any(where in finding.where for finding in wrong if finding.severity == "error"), wrong[:3]


def test_nothing_is_found_where_nothing_was_done(subjects: dict[str, Subject]) -> None:
    for name, subject in subjects.items():
        assert found(subject) == [], name
