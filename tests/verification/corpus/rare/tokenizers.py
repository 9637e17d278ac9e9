"""What becomes of text before and after the model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.verification.corpus.changes import Damage
from tests.verification.corpus.rare.configs import text
from tests.verification.damage import edit_config

T, C, J = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"


def tokenizer(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, change, T)


def settings(**changed: Any) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, lambda c: c.update(changed), C)


def beside(name: str, content: object) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(json.dumps(content)) and None


def _merges(t: dict[str, Any]) -> None:
    merges = t["model"]["merges"]
    merges[3], merges[40] = merges[40], merges[3]


def _two_of_one_number(t: dict[str, Any]) -> None:
    vocabulary = t["model"]["vocab"]
    one, other = list(vocabulary)[300:302]
    vocabulary[one] = vocabulary[other]


def _swapped(t: dict[str, Any]) -> None:
    added = t["added_tokens"]
    added[0]["id"], added[1]["id"] = added[1]["id"], added[0]["id"]


TOKENIZERS = [
    Damage("merges swapped", "fp8", tokenizer(_merges), T, False),
    Damage("a merge gone", "awq", tokenizer(lambda t: t["model"]["merges"].pop(700)), T, False),
    Damage(
        "a merge of tokens that are not there",
        "fp8",
        tokenizer(lambda t: t["model"]["merges"].append(["qqqqqq", "zzzzzz"])),
        T,
        True,
    ),
    Damage("two tokens of one number", "fp8", tokenizer(_two_of_one_number), T, True),
    Damage("numbers of special tokens exchanged", "fp8", tokenizer(_swapped), T, False),
    Damage(
        "an added token outside the vocabulary",
        "fp8",
        tokenizer(lambda t: t["added_tokens"][0].update(id=99999)),
        "",
        True,
    ),
    Damage(
        "a special token made a plain one",
        "fp8",
        tokenizer(lambda t: t["added_tokens"][0].update(special=False)),
        T,
        False,
    ),
    Damage(
        "an added token too many",
        "fp8",
        tokenizer(lambda t: t["added_tokens"].append({**t["added_tokens"][0], "id": 2048, "content": "<more>"})),
        "",
        True,
    ),
    Damage("text lowered", "fp8", tokenizer(lambda t: t.update(normalizer={"type": "Lowercase"})), T, False),
    Damage(
        "a first token put",
        "fp8",
        tokenizer(
            lambda t: t.update(
                post_processor={
                    "type": "TemplateProcessing",
                    "single": [
                        {"SpecialToken": {"id": "<pad>", "type_id": 0}},
                        {"Sequence": {"id": "A", "type_id": 0}},
                    ],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {"<pad>": {"id": "<pad>", "ids": [3], "tokens": ["<pad>"]}},
                }
            )
        ),
        T,
        False,
    ),
    Damage(
        "text cut at 16 tokens",
        "fp8",
        tokenizer(
            lambda t: t.update(
                truncation={"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
            )
        ),
        T,
        False,
    ),
    Damage("merges ignored", "fp8", tokenizer(lambda t: t["model"].update(ignore_merges=True)), T, False),
    Damage("no decoder", "fp8", tokenizer(lambda t: t.update(decoder=None)), T, False),
    Damage("no pre-tokenizer", "nvfp4", tokenizer(lambda t: t.update(pre_tokenizer=None)), T, False),
    Damage("tokenizer.json of nothing", "fp8", tokenizer(lambda t: t["model"].update(vocab={}, merges=[])), T, True),
    Damage("tokenizer.json cut short", "fp8", text(lambda t: t[: len(t) // 2], T), T, True),
    Damage("a token twice", "fp8", text(lambda t: t.replace('"vocab": {', '"vocab": {"the": 9,', 1), T), T, True),
    Damage("another end token", "fp8", settings(eos_token="<|im_end|>"), C, False),
    Damage("an end token that is not there", "fp8", settings(eos_token="<|finish|>"), "", True),
    Damage("contexts of 16 tokens", "fp8", settings(model_max_length=16), C, False),
    Damage("a first token asked for", "fp8", settings(add_bos_token=True), C, False),
    Damage("a template of its own", "fp8", settings(chat_template="{{ messages[-1].content }}"), C, False),
    Damage("spaces cleaned up", "awq", settings(clean_up_tokenization_spaces=True), C, False),
    Damage("another class", "fp8", settings(tokenizer_class="LlamaTokenizer"), C, False),
    Damage("code for the tokenizer", "fp8", settings(auto_map={"AutoTokenizer": ["t.T", None]}), C, False),
    Damage(
        "special tokens of another model",
        "fp8",
        beside("special_tokens_map.json", {"eos_token": "<|im_end|>"}),
        "special_tokens_map.json",
        False,
    ),
    Damage("added tokens beside", "fp8", beside("added_tokens.json", {"<|im_end|>": 7}), "added_tokens.json", False),
    Damage("a slow tokenizer's vocabulary", "fp8", beside("vocab.json", {"a": 0}), "vocab.json", False),
    Damage(
        "a template in the old file",
        "fp8",
        beside("chat_template.json", {"chat_template": "{{ messages }}"}),
        "chat_template.json",
        False,
    ),
    Damage(
        "template: no prompt for the answer",
        "fp8",
        text(lambda t: t.replace("add_generation_prompt", "false"), J),
        J,
        False,
    ),
    Damage(
        "template: roles exchanged",
        "fp8",
        text(lambda t: t + "{# #}" if "user" not in t else t.replace("user", "system"), J),
        J,
        False,
    ),
    Damage("template that cannot be read", "fp8", text(lambda t: t + "{% if %}", J), J, True),
    Damage("template that calls what is not there", "fp8", text(lambda t: t + "{{ no_such(messages) }}", J), J, True),
    Damage("template of nothing", "fp8", text(lambda t: "", J), J, True),
]
