"""The cards of all ten artifacts of a pruned model: every figure is what a file says, and no other is there."""

import hashlib
import io
import json
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from gguf import GGUFReader
from jinja2 import Environment, nodes

from cards.budget.device_memory import longest_context, memory
from cards.budget.hardware import hardware
from cards.facts.model_facts import read_model
from cards.facts.origins import FIGURES, without_block, wrong_figures
from cards.model_card.card import card_of
from cards.model_card.front_matter import fields, problems, split
from cards.model_card.rendering import NAMES, TEMPLATES
from cli.main import run
from tests.few_windows import few_windows

PROJECT = Path(__file__).parents[3]
MODEL = PROJECT / "demo" / "minimax-m2-4.6m-REAP-6"
SMALL = ("--set", "calibration.samples=8", "--set", "calibration.length=128", "--set", "calibration.sample_rows=32")
NEAREST = ("bf16", "fp8", "nvfp4", "nvfp4-gb10", "gguf-q3_k_m", "gguf-q4_k_m", "gguf-q6_k", "gguf-q8_0")
COMPENSATED = ("awq", "gguf-iq4_xs")
OF_GGUF = ("Q3_K_M", "IQ4_XS", "Q4_K_M", "Q6_K", "Q8_0")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made and verified as a user does, with every eighth window of the held-out text and short answers; two with
    errors compensated, which takes longer."""
    out = tmp_path_factory.mktemp("artifacts")
    made = ("--base-model", "lab/Tiny", "--out", str(out), *SMALL)
    with (
        few_windows("verification.measure.held_out"),
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(io.StringIO()),
    ):
        patch.setattr("verification.smoke.smoke_test.TOKENS", 8)
        assert run(["export", str(MODEL), *NEAREST, *made, "--set", "rounding=nearest"]) in (0, 3)
        assert run(["export", str(MODEL), *COMPENSATED, *made]) in (0, 3)
    return out / MODEL.name


@pytest.fixture(scope="module")
def cards(root: Path) -> dict[Path, str]:
    return {path.parent: path.read_text() for path in sorted(root.glob("*/README.md"))}


def figures(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / FIGURES).read_text())["figures"]
    return found


def content(name: str, folder: Path) -> Any:
    own = name.startswith("sixfold:")
    path = PROJECT / name.removeprefix("sixfold:") if own else folder / name
    if path.suffix == ".gguf":
        return {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(path).tensors}
    return yaml.safe_load(path.read_text()) if path.suffix == ".yaml" else json.loads(path.read_text())


def at(document: Any, pointer: str) -> Any:
    """RFC 6901, and "#" for the name of the key."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.rstrip("#").split("/")[1:]]
    if pointer.endswith("#"):
        parts, key = parts[:-1], parts[-1]
        assert key in (at(document, "".join(f"/{p.replace('~', '~0').replace('/', '~1')}" for p in parts)))
        return key
    for part in parts:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


LITERAL: dict[str, Callable[..., Any]] = {
    "artifact_bytes": lambda files: sum(
        record["bytes"] for name, record in files.items() if name != "LICENSE" or not any(".gguf" in n for n in files)),
    "weight_bytes": lambda files: sum(
        record["bytes"] for name, record in files.items() if name.split(".")[-1] in ("safetensors", "gguf")),
    "share": lambda part, whole: part / whole,
    "product": lambda a, b: a * b,
    "length": len,
    "number_of": lambda *values: len(values),
    "passed": lambda prompts: [prompt["passed"] for prompt in prompts].count(True),
    "experts": lambda coverage: sum(len(layer["tokens"]) for layer in coverage),
    "least_tokens": lambda coverage: min(min(layer["tokens"]) for layer in coverage),
    "median_tokens": lambda coverage: sorted(n for layer in coverage for n in layer["tokens"])[
        sum(len(layer["tokens"]) for layer in coverage) // 2],
    "starved": lambda coverage: sum(n < 32 for layer in coverage for n in layer["tokens"]),
    "kept_experts": lambda layers: str(len(layers[0]["kept"])),
    "texts_used": lambda files: len([name for name in files if files[name]["tokens"]]),
    "largest": lambda layers: max([layer["largest"] for layer in layers]),
    "longest_trained": lambda config: config["max_position_embeddings"],
    "cache_per_token": lambda config, engine: cache_per_token(config),
    "kv_cache": lambda config, weights, engine, context: cache_per_token(config) * context,
    "cache_of_type": lambda config, engine, context, cache: cache_per_token(config) * context * (
        1 / 2 if cache == "fp8" else 34 / 64),
    "memory": lambda *asked: memory(*asked).total,
    "expert_bytes": lambda *files: sum(n for file in files for name, n in file.items() if "exps.weight" in name),
    "memory_beside_experts": lambda config, weights, experts, *asked: memory(config, weights - experts, *asked).total,
    "warnings": lambda *lists: [finding["severity"] for found in lists for finding in found].count("warning"),
    "buffers": lambda *asked: memory(*asked).total - memory(*asked).weights - memory(*asked).kv_cache,
    "longest_context": lambda config, weights, engine, name: longest_context(
        config, weights, engine, next(machine for machine in hardware() if machine.name == name)),
    "settings": lambda recipe: settings_of(recipe),
    "estimates": lambda *asked: "; ".join(memory(*asked).estimates),
}  # fmt: skip
"""The rules, written down once more; of what an engine needs besides weights and cache,
tests/cards/budget/test_device_memory.py has the proof."""


def cache_per_token(config: dict[str, Any]) -> int:
    """Keys and values of every layer in BF16."""
    return int(2 * 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"])


def settings_of(recipe: dict[str, Any]) -> str:
    """What the fixture asked for, where it matters: rounding where there are codes to choose and the shipped recipe
    chooses them, the calibration where one was used."""
    chosen = recipe["name"] in NEAREST and recipe["name"] not in ("bf16", "fp8", "gguf-q8_0")
    used = SMALL if recipe["calibration"]["samples"] == 8 else ()
    return " ".join((*(("--set", "rounding=nearest") if chosen else ()), *used))


def literal(figure: dict[str, Any], folder: Path) -> Any:
    if "rule" in figure:
        return LITERAL[figure["rule"]](*(literal(part, folder) for part in figure["of"]))
    return at(content(figure["file"], folder), figure["at"])


def test_there_is_a_card_for_every_folder(cards: dict[Path, str]) -> None:
    suffixes = [folder.name.removeprefix(f"{MODEL.name}-") for folder in cards]
    assert sorted(suffixes) == ["AWQ", "BF16", "FP8", "GGUF", "NVFP4", "NVFP4-GB10"]
    (gguf,) = [card for folder, card in cards.items() if folder.name.endswith("GGUF")]
    assert all(f"{MODEL.name}-{scheme}.gguf" in gguf for scheme in OF_GGUF)


def test_every_card_says_what_its_figures_are_next_to(cards: dict[Path, str]) -> None:
    """Of a pruned model there are two: the pruned checkpoint, and the one that it was made of."""
    (bf16,) = (folder for folder in cards if folder.name.endswith("-BF16"))
    lost = json.loads((bf16 / "verification.json").read_text())["divergence"]["original"]["scores"]["weights"]
    for text in cards.values():
        head = text.split("<!-- yours: introduction -->")[0]
        assert "KL and top-1 on this card are relative to that pruned checkpoint in BF16; relative to minimax" in head
        assert f"itself has a mean KL of {lost['mean_kl']:.4f} and a top-1 of {100 * lost['top1']:.1f}%;" in head
        assert 'where a figure is relative to minimax-m2-4.6m, it says "from unpruned".' in head


def test_the_hub_takes_every_card(cards: dict[Path, str]) -> None:
    for card in cards.values():
        assert problems(card) == ()
        assert fields(card)["license"] == "apache-2.0"


def test_the_hub_offers_an_engine_that_the_card_says_how_to_run(cards: dict[Path, str]) -> None:
    """The Hub prints a snippet for `library_name` beside the card."""
    headings = {"vllm": "### vLLM", "transformers": "### transformers", "gguf": "### llama.cpp"}
    for card in cards.values():
        library = fields(card)["library_name"]
        assert headings[library] in card.split("## How to run it")[1].split("\n## ")[0]
        assert f"**Not with {library}**" not in card


def test_a_card_names_the_record_of_its_figures(cards: dict[Path, str]) -> None:
    """By name and hash; the record says what of it is published where, and the card itself stays readable."""
    for folder, card in cards.items():
        comment = json.loads(card.split("<!-- figures\n")[1].split("\n-->")[0])
        assert comment["sha256"] == hashlib.sha256((folder / comment["file"]).read_bytes()).hexdigest()
        assert "../source/source.json" in json.loads((folder / comment["file"]).read_text())["unpublished"]
        assert len(without_block(card)) > 0.85 * len(card)
        damaged = card.replace(comment["sha256"][:8], "0" * 8)
        assert wrong_figures(damaged, folder) == (
            f"{comment['file']} is not the record that the card was rendered with",
        )


def test_every_figure_is_what_its_file_says(cards: dict[Path, str]) -> None:
    walked = 0
    for folder, card in cards.items():
        body = without_block(card)
        for figure in figures(folder):
            assert figure["value"] == literal(figure, folder), figure
            assert figure["shown"] in body
            walked += 1
        assert wrong_figures(card, folder) == ()
    assert walked > 900


def test_every_digit_on_a_card_belongs_to_a_figure(cards: dict[Path, str]) -> None:
    """What is left of the text without all that figures show and the names of formats, longest first, has none."""
    for folder, card in cards.items():
        rest = without_block(split(card)[1])
        known = {*(figure["shown"] for figure in figures(folder)), *NAMES}
        for shown in sorted(known, key=len, reverse=True):
            rest = rest.replace(shown, "")
        assert re.findall(r"[^\n]*\d[^\n]*", rest) == []


def altered(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub(r"\d", lambda found: str((int(found[0]) + 1) % 10), value)
    return value + 1 if isinstance(value, int) else value * 1.5 + 1


def inject(path: Path, pointer: str) -> None:
    """Write another number where the pointer points."""
    document = json.loads(path.read_text())
    *parts, last = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    place = document
    for part in parts:
        place = place[int(part)] if isinstance(place, list) else place[part]
    key = int(last) if isinstance(place, list) else last
    place[key] = altered(place[key])
    path.write_text(json.dumps(document))


def places(folder: Path) -> dict[str, list[str]]:
    """Fact file -> the pointers of the figures that are read from it. Keys' names and tables of the project are left
    out."""
    found: dict[str, list[str]] = {}
    for figure in figures(folder):
        if "file" in figure and not figure["at"].endswith("#") and not figure["file"].startswith("sixfold:"):
            found.setdefault(figure["file"], []).append(figure["at"])
    return found


def test_a_wrong_number_in_any_fact_file_is_noticed(root: Path, cards: dict[Path, str]) -> None:
    """Every seventh is tried, in each folder others: it makes the card that is there wrong; and of each file one makes
    another card."""
    for first, (folder, card) in enumerate(cards.items()):
        for name, pointers in places(folder).items():
            path = folder / name
            sound = path.read_bytes()
            for number, pointer in enumerate(list(dict.fromkeys(pointers))[first % 7 :: 7]):
                inject(path, pointer)
                try:
                    assert wrong_figures(card, folder), f"{name}{pointer}"
                    if number == 0:
                        assert card_of(read_model(root), folder).text != card, f"{name}{pointer}"
                finally:
                    path.write_bytes(sound)


def test_every_kind_of_file_is_read(cards: dict[Path, str]) -> None:
    read = {Path(name).name.split(".gguf.")[-1] for folder in cards for name in places(folder)}
    assert {"manifest.json", "verification.json", "config.json", "plan.json", "source.json"} <= read


def typed(source: str) -> list[str]:
    """Digits that a template prints by itself: in its text, in texts and numbers that an expression consists of."""
    names = re.compile("|".join(map(re.escape, NAMES)))
    tree = Environment().parse(source)
    texts = [node.data for node in tree.find_all(nodes.TemplateData)]
    texts += [node.value.removesuffix(".md.j2") for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    printed = [child for node in tree.find_all(nodes.Output) for child in node.nodes]
    texts += [str(node.value) for node in printed if isinstance(node, nodes.Const)]
    return [text for text in texts if re.search(r"\d", names.sub("", text))]


@pytest.mark.parametrize("path", sorted(TEMPLATES.rglob("*.md.j2")), ids=lambda path: str(path.relative_to(TEMPLATES)))
def test_no_template_types_a_number(path: Path) -> None:
    assert typed(path.read_text()) == []


@pytest.mark.parametrize(
    "source", ["It has 5 files.", "{{ 5 }}", '{{ "5 files" }}', '{% if a %}{{ "NVFP5" }}{% endif %}']
)
def test_a_typed_number_is_found(source: str) -> None:
    assert typed(source)
