"""Whether config.json agrees with the tensors and with the source."""

from collections.abc import Iterator, Mapping
from typing import Any

from sixfold.model.meta_model import transformers_config
from verification.finding import Finding
from verification.reading.folder import CONFIG, MODELOPT_CONFIG
from verification.reading.subject import Subject
from verification.structure.config_difference import differences
from verification.structure.config_itself import refused_key
from verification.structure.json_in_sentences import shown

EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_IDLE = "zero_expert_num"
"""Experts without weights, which routers choose among as well (LongCat)."""

_ENGINES_NEED: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "minimax_m2": (("scoring_func",), ("rotary_dim",), ("use_routing_bias",)),
    "deepseek_v3": (("n_group",), ("topk_group",), ("norm_topk_prob",), ("routed_scaling_factor",)),
    "glm4_moe": (("n_group",), ("topk_group",), ("norm_topk_prob",), ("routed_scaling_factor",)),
    "qwen3_moe": (("norm_topk_prob",),),
}
"""model_type -> keys that vLLM or llama.cpp's converter read from config.json, where transformers has a default."""

_REMEDY = "take the value from the source's config.json"


def check_against_source(subject: Subject) -> Iterator[Finding]:
    """Every field is what it is in the source's config.json, but for those that are known to be harmless."""
    if subject.source is None or not subject.folder.config:
        return
    source, held = subject.source.checkpoint.config, subject.folder.config
    consequences = {
        "gone": "engines fall back to a default, or stop",
        "added": "engines build another model than the weights are of, or run other code",
        "changed": "engines build another model than the weights are of",
    }
    for path, what, how in differences(source, held, _completed(source), _completed(held)):
        if how == "added" and path in _implied(source) and held[path] == _implied(source)[path]:
            continue
        remedy = "remove it" if how == "added" else _REMEDY
        yield Finding("config.key", f"{CONFIG}: {path}", what, consequences[how], remedy)


def _implied(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of fields that engines need and transformers drops, those of which its own code has one value."""
    if config.get("model_type") != "minimax_m2":
        return {}
    rotary = _completed(config).get("rope_parameters", {}).get("partial_rotary_factor", 1.0)
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return {"scoring_func": "sigmoid", "use_routing_bias": True, "rotary_dim": round(size * rotary)}


def _completed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """With transformers' defaults; {} where it can make no config of it."""
    try:
        found: dict[str, Any] = transformers_config({k: v for k, v in config.items() if k != "auto_map"}).to_dict()
    except Exception:  # config classes raise their own validation errors for values that they do not take
        return {}
    return found


def check_architecture(subject: Subject) -> Iterator[Finding]:
    """Where transformers cannot make a model of the config, nothing below can be checked."""
    if subject.blueprint is None and subject.folder.config:
        key = refused_key(subject.folder.config)
        yield Finding(
            "config.model",
            f"{CONFIG}: {key}" if key else CONFIG,
            "transformers cannot build a causal language model from it, so names and shapes could not be checked",
            "engines refuse it, or need code of their own",
            "compare it with the original model's config.json, or pass the source with --against",
            "warning" if subject.folder.config.get("auto_map") else "error",
        )


def check_class(subject: Subject) -> Iterator[Finding]:
    """`architectures`, by which engines choose their own code, is transformers' class for the model type."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = subject.folder.config
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(str(config.get("model_type")))
    held = config.get("architectures")
    if subject.source is not None or known is None:
        return  # with a source, its own value is what counts
    names = held if isinstance(held, list) else []
    if not names or (known not in names and all(str(name).endswith("ForCausalLM") for name in names)):
        what = f"architectures is {shown(held)}, a {config['model_type']} is a {known}"
        where = f"{CONFIG}: architectures"
        yield Finding("config.key", where, what, "vLLM and SGLang run another model's code, or refuse", _REMEDY)


def check_counts(subject: Subject) -> Iterator[Finding]:
    """The number of experts is the same in every key, in routers' rows, in biases' lengths and in the files."""
    config = subject.folder.config
    text = config.get("text_config")
    places = [("", config)] + ([("text_config.", text)] if isinstance(text, Mapping) else [])
    stated = {
        f"{prefix}{key}": part[key]
        for prefix, part in places
        for key in EXPERT_COUNTS
        if isinstance(part.get(key), int) and part[key] > 1
    }
    if len(set(stated.values())) > 1:
        what = "config.json counts " + ", ".join(f"{value} in {key}" for key, value in stated.items())
        yield Finding(
            "config.experts", CONFIG, what, "engines read one of them", "state the number that the files hold"
        )
    idle = next((part[_IDLE] for _, part in places if isinstance(part.get(_IDLE), int)), 0)
    for key, count in stated.items():
        for name, held in _expert_rows(subject):
            wanted = _rows(subject, name, key, count) or count + idle
            if held != wanted:
                what = f"config.json's {key} is {count}, which makes {wanted} rows, and {name} has {held}"
                yield Finding(
                    "config.experts", name, what, "loading stops, or experts are never chosen", "correct the count"
                )
        break
    key = next((k for k in ("num_experts_per_tok", "moe_topk") if isinstance(config.get(k), int)), "")
    if key and stated and config[key] > min(stated.values()):
        what = f"it is {config[key]}, of {min(stated.values())} experts"
        yield Finding(
            "config.experts", f"{CONFIG}: {key}", what, "the router asks for more experts than there are", _REMEDY
        )


def _rows(subject: Subject, name: str, key: str, count: int) -> int | None:
    """What `count` experts, as config.json's `key` has them, make of a router's or a bias's rows: experts without
    weights come on top. None where that is not known."""
    if subject.blueprint is None or name not in subject.blueprint.tensors:
        return None
    rows = subject.blueprint.tensors[name][0]
    if subject.source is None:
        return rows  # of this config itself
    own: Any = subject.source.checkpoint.config
    for part in key.split("."):
        own = own.get(part) if isinstance(own, Mapping) else None
    return rows - own + count if isinstance(own, int) else None


def _expert_rows(subject: Subject) -> Iterator[tuple[str, int]]:
    """(router or correction bias, how many experts it is made for), whatever config.json says."""
    routers = {f"{n}.weight" for n, lin in _linears(subject).items() if lin.role == "router" and lin.out_features > 1}
    for name, stored in subject.folder.tensors.items():
        bias = name.endswith(("correction_bias", "expert_bias")) and len(stored.shape) == 1
        if bias or (name in routers and len(stored.shape) == 2):
            yield name, stored.shape[0]


def _linears(subject: Subject) -> Mapping[str, Any]:
    return subject.blueprint.linears if subject.blueprint is not None else {}


def check_needed(subject: Subject) -> Iterator[Finding]:
    """Keys that engines read and that transformers drops when it saves."""
    config = subject.folder.config
    for keys in _ENGINES_NEED.get(str(config.get("model_type")), ()):
        if not any(key in config for key in keys):
            if subject.source is not None and not any(k in subject.source.checkpoint.config for k in keys):
                continue
            yield Finding(
                "config.key",
                f"{CONFIG}: {keys[0]}",
                f"a {config['model_type']} needs {' or '.join(keys)}, which transformers drops when it saves",
                "conversion to GGUF goes through and llama.cpp aborts; vLLM assumes a default",
                _REMEDY,
                "error" if subject.source is not None or keys[0] in ("scoring_func", "rotary_dim") else "warning",
            )


def check_code(subject: Subject) -> Iterator[Finding]:
    """Files that auto_map names are there."""
    auto_map = subject.folder.config.get("auto_map")
    for target in auto_map.values() if isinstance(auto_map, Mapping) else ():
        for one in target if isinstance(target, list) else [target]:
            if not isinstance(one, str) or "--" in one:
                continue
            file = one.partition(".")[0] + ".py"
            if file not in subject.folder.files:
                if subject.source is not None and file not in subject.source.checkpoint.extras:
                    continue
                yield Finding(
                    "config.code",
                    f"{CONFIG}: auto_map",
                    f"it names {one}, and {file} is not there",
                    "loading with trust_remote_code stops",
                    f"copy {file} from the source",
                )


def check_modelopt(subject: Subject) -> Iterator[Finding]:
    """hf_quant_config.json and config.json say the same."""
    if subject.declared.method != "modelopt":
        return
    beside = subject.folder.modelopt_config
    if beside is None:
        what = f"there is no {MODELOPT_CONFIG} that can be read"
        yield Finding("config.modelopt", MODELOPT_CONFIG, what, "TensorRT-LLM takes the model for BF16", "restore it")
        return
    config = subject.declared.config
    if beside.get("quant_algo") != config.get("quant_algo"):
        what = f"quant_algo is {beside.get('quant_algo')} here, and {config.get('quant_algo')} in {CONFIG}"
        yield Finding("config.modelopt", MODELOPT_CONFIG, what, "one of the readers is wrong", "make them agree")
    if set(beside.get("exclude_modules") or ()) != set(config.get("ignore") or ()):
        what = f"exclude_modules differs from `ignore` in {CONFIG}"
        yield Finding("config.modelopt", MODELOPT_CONFIG, what, "one of the readers is wrong", "make them agree")
