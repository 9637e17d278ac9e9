"""report.html says what the files say, needs nothing but itself, and its chooser answers what the budgets say."""

import json
import re
import shutil
import struct
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch
from safetensors.torch import save_file

from cards.budget.device_memory import memory
from cards.budget.hardware import hardware
from cards.facts.model_facts import read_model
from cards.facts.traced import resolved
from cards.report.machine_choice import CACHES, machine_choice
from cli.commands.report import write
from cli.main import run
from sixfold.artifact.verification_record import content_digest
from sixfold.drawing.svg_document import DARK
from sixfold.statistics.statistics import SCHEMA, Statistics
from tests.cards.model_card.test_card import evaluation
from tests.cards.model_folder import finding, prompt
from tests.cards.model_folder import write as write_json
from tests.cards.report import chromium
from tests.cards.reported import KL, SIZES, model_folder

PRUNED = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m-REAP-6"
READS = {"BF16": ["vllm", "sglang"], "FP8": ["vllm", "sglang"], "NVFP4": ["vllm"]}
"""By cards/formats.yaml; GGUF files are llama.cpp's."""
RECIPES = {label: f"gguf-{label.lower()}" if label.startswith("Q") else label.lower() for label in SIZES}
ON_FP8 = {"rtx-4090", "rtx-5090", "rtx-pro-6000", "gb10", "h100", "h200", "b200"}
"""Machines with an Ada, Hopper or Blackwell chip, which is what the FP8 recipe here was made for."""
BITS = {"bf16": "16", "fp8": "8", "q8_0": "8", "q4_0": "4"}


class Elements(HTMLParser):
    """Every element with its attributes and the text in it, in document order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.all: list[dict[str, str]] = []
        self._open: list[dict[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append({"": tag, "text": "", **{key: value or "" for key, value in attrs}})
        if tag not in ("meta", "link", "input"):
            self._open.append(self.all[-1])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append({"": tag, "text": "", **{key: value or "" for key, value in attrs}})

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[""] != tag:
            continue

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element["text"] += data

    def named(self, tag: str) -> list[dict[str, str]]:
        return [element for element in self.all if element[""] == tag]

    def by_id(self, name: str) -> dict[str, str]:
        return next(element for element in self.all if element.get("id") == name)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = model_folder(tmp_path_factory.mktemp("out") / "Tiny")
    assert run(["report", "Tiny", "--out", str(root.parent)]) == 0
    return root


@pytest.fixture(scope="module")
def page(root: Path) -> Elements:
    return Elements((root / "report.html").read_text(encoding="utf-8"))


def row_of(page: Elements, label: str) -> dict[str, str]:
    return next(element for element in page.named("tr") if element.get("data-label") == label)


# What it says ---------------------------------------------------------------------------------------------------------


def test_every_figure_is_what_its_file_says(root: Path, page: Elements) -> None:
    read = [element for element in page.named("data") if "data-file" in element]
    assert len(read) > 60
    for element in read:
        value = resolved(json.loads((root / element["data-file"]).read_text()), element["data-at"])
        assert element["value"] == str(value), element
        shown = float(re.sub(r"[^\d.]", "", element["text"]))
        scale = 100 if element["text"].endswith("%") else 1
        decimals = len(element["text"].rstrip("%").partition(".")[2])
        assert shown == pytest.approx(float(value) * scale, abs=0.51 * 10**-decimals), element


def test_figures_that_are_computed_say_of_what(root: Path, page: Elements) -> None:
    """Three layers of four experts with 500, 90 to 92, 0 and 7 tokens; 64 samples of 512."""
    for element in page.named("data"):
        if element.get("data-rule") == "artifact_bytes":
            files = [resolved(json.loads((root / path).read_text()), at) for path, at in json.loads(element["data-of"])]
            (listed,) = files
            ggufs = [record["bytes"] for name, record in listed.items() if name.endswith(".gguf")]
            assert int(element["value"]) == sum(ggufs or [record["bytes"] for record in listed.values()])
    told = {e["data-rule"]: e["text"] for e in page.named("data") if "data-rule" in e}
    assert {rule: told[rule] for rule in ("product", "experts", "least_tokens", "median_tokens", "starved")} == {
        "product": "32,768",
        "experts": "12",
        "least_tokens": "0",
        "median_tokens": "90",
        "starved": "6",
    }


def test_a_badge_counts_warnings_and_says_what_a_prompt_is(tmp_path: Path) -> None:
    root = model_folder(tmp_path / "Tiny")
    path = root / "Tiny-FP8/verification.json"
    written = json.loads(path.read_text())
    written["findings"] = [finding("it runs in a loop", "warning"), finding("again", "warning")]
    written["smoke"] = {"not_run": "", "engine": "", "prompts": [prompt("prose", "it runs in a loop")]}
    write_json(path, written)
    page = Elements(write(root).read_text(encoding="utf-8"))
    assert "passed, 2 warnings" in row_of(page, "FP8")["text"]
    assert "0 of 1 passed" in page.by_id("checks-fp8")["text"]
    assert "does not say that the answer is right" in page.by_id("checks-fp8")["text"]
    budget = json.loads(page.by_id("budget")["text"])
    assert {v["recipe"]: v["warnings"] for v in budget["variants"]}["fp8"] == 2


def test_what_passed_and_checksums_are_folded(page: Elements) -> None:
    """A reader unfolds them, or a link to one of them does; what failed is open."""
    folds = [element for element in page.named("details") if "fold" in element.get("class", "").split()]
    assert len(folds) == 2
    assert not any("open" in fold for fold in folds)
    assert "open" in page.by_id("checks-nvfp4")
    assert not any("class='card check' id='checks-nvfp4'" in fold["text"] for fold in folds)


def test_every_variant_has_its_row(page: Elements) -> None:
    """Sizes and KL as they were written, smallest first; nothing that was not measured is a number."""
    rows = [element for element in page.named("tr") if "data-label" in element]
    assert [row["data-label"] for row in rows] == sorted(SIZES, key=lambda label: SIZES[label])
    assert {row["data-label"]: int(row["data-size"]) for row in rows} == SIZES
    assert {row["data-label"]: row["data-mean"] for row in rows} == {
        label: str(KL[label]) if label in KL else "" for label in SIZES
    }
    assert {row["data-label"]: row["data-state"] for row in rows} == {
        label: {"NVFP4": "failed", "Q3_K_M": "unverified"}.get(label, "passed") for label in SIZES
    }


def test_what_is_missing_says_why_and_is_never_nought(page: Elements) -> None:
    row = row_of(page, "Q3_K_M")
    assert all(row[f"data-{key}"] == "" for key in ("mean", "median", "p99", "max", "top1", "bits"))
    assert "not verified" in row["text"]
    assert not re.search(r"0\.0+\b|0%", row["text"])
    assert "not counted" in row["text"]  # the weights here are holes: no header to count parameters in
    assert "no pruning plan is known" in page.by_id("pruning")["text"]
    assert "not stated" in page.by_id("provenance")["text"]  # its authors


def test_a_failed_gate_says_what_why_and_what_follows(page: Elements) -> None:
    said = page.by_id("checks-nvfp4")
    assert "open" in said
    assert "mean KL 0.06 is over the 0.05 that the recipe allows" in said["text"]
    assert "it answers worse than it should" in said["text"]
    assert "No check found anything" in page.by_id("checks-fp8")["text"]


def test_text_from_files_cannot_become_markup(root: Path, page: Elements) -> None:
    assert "runed <by hand>" in page.by_id("provenance")["text"]
    assert "<by hand>" not in (root / "report.html").read_text(encoding="utf-8")


def test_a_changed_file_changes_the_page(tmp_path: Path) -> None:
    root = model_folder(tmp_path / "Tiny")
    before = write(root).read_text(encoding="utf-8")
    assert write(root).read_text(encoding="utf-8") == before
    path = root / "Tiny-FP8/verification.json"
    changed = json.loads(path.read_text())
    changed["divergence"]["scores"]["engine"]["mean_kl"] = 0.0345678
    write_json(path, changed)
    after = write(root).read_text(encoding="utf-8")
    assert row_of(Elements(after), "FP8")["data-mean"] == "0.0345678"
    assert "0.03457" in row_of(Elements(after), "FP8")["text"]


def test_what_plain_rounding_costs_stands_beside_what_the_variant_does(tmp_path: Path) -> None:
    root = model_folder(tmp_path / "Tiny")
    path = root / "Tiny-FP8/verification.json"
    measured = json.loads(path.read_text())
    measured["divergence"]["plain"] = {**measured["divergence"]["scores"]["engine"], "mean_kl": 0.0456789}
    write_json(path, measured)
    text = Elements(write(root).read_text(encoding="utf-8")).by_id("checks-fp8")["text"]
    assert "Rounding the same weights plainly to the same format costs, as run, a mean KL of 0.04568" in text


def test_a_lost_file_is_named(tmp_path: Path) -> None:
    root = model_folder(tmp_path / "Tiny")
    (root / "Tiny-FP8/model.safetensors").unlink()
    page = Elements(write(root).read_text(encoding="utf-8"))
    assert row_of(page, "FP8")["data-state"] == "incomplete"
    assert "model.safetensors is missing" in page.by_id("checks-fp8")["text"]
    budget = json.loads(page.by_id("budget")["text"])
    assert {v["recipe"]: v["state"] for v in budget["variants"]}["fp8"] == "incomplete"


def test_a_calibration_of_another_version_is_as_none(tmp_path: Path) -> None:
    root = model_folder(tmp_path / "Tiny")
    write_json(root / "calibration/manifest.json", {"schema": 1, "coverage": []})
    said = Elements(write(root).read_text(encoding="utf-8")).by_id("calibration")["text"]
    assert "no calibration of this version" in said


def test_what_was_made_from_another_calibration_is_named(tmp_path: Path) -> None:
    root = model_folder(tmp_path / "Tiny")
    shown = {"schema": SCHEMA, "files": {}, "profile": {}, "imatrix": {"file": "x.gguf", "sha256": "e" * 64}}
    write_json(root / "calibration/manifest.json", shown)
    of_shown = Statistics(root, shown).digest
    for name, statistics in (("FP8", of_shown), ("NVFP4", "f" * 64)):
        path = root / f"Tiny-{name}/manifest.json"
        write_json(path, json.loads(path.read_text()) | {"statistics": statistics})
    said = Elements(write(root).read_text(encoding="utf-8")).by_id("calibration")["text"]
    assert "Made from another calibration than this one: NVFP4." in said


def test_an_importance_matrix_from_elsewhere_is_named(tmp_path: Path) -> None:
    root = model_folder(tmp_path / "Tiny")
    matrix = {"file": "their.gguf", "kept_as": "their.gguf", "sha256": "e" * 64, "chunks": 12}
    write_json(root / "calibration/manifest.json", {"schema": SCHEMA, "files": {}, "profile": {}, "imatrix": matrix})
    said = Elements(write(root).read_text(encoding="utf-8")).by_id("calibration")["text"]
    assert "their.gguf" in said
    assert "e" * 64 in said
    assert "an importance matrix does not say" in said


def test_where_no_budget_is_known_the_page_says_so(tmp_path: Path) -> None:
    root = model_folder(tmp_path / "Tiny")
    for path in root.glob("*/config.json"):
        write_json(path, {"model_type": "unheard-of", "max_position_embeddings": 4096})
    page = Elements(write(root).read_text(encoding="utf-8"))
    assert "unheard-of" in page.by_id("choose")["text"]
    assert not [element for element in page.all if element.get("id") == "chooser"]
    assert "unheard-of" in page.by_id("chart-memory-vllm")["text"]


# What it needs --------------------------------------------------------------------------------------------------------


def test_it_loads_nothing(root: Path, page: Elements) -> None:
    text = (root / "report.html").read_text(encoding="utf-8")
    for element in page.all:
        assert not {"src", "srcset", "data", "action", "poster", "background", "xlink:href"} & set(element), element
        target = element.get("href", "#")
        if element[""] == "a":
            assert target.startswith(("#", "https://huggingface.co/", "Tiny-", "charts/")), target
        else:
            assert target == "#" or target.startswith("data:"), element
    assert not re.search(r"url\(|@import|@font-face|fetch\(|XMLHttpRequest|WebSocket|import\(|sendBeacon", text)
    policy = next(m for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none';")


def test_links_lead_to_what_is_there(root: Path, page: Elements) -> None:
    places = {element["id"] for element in page.all if "id" in element}
    assert len(places) == len([element for element in page.all if "id" in element])
    for link in (element["href"] for element in page.named("a") if "://" not in element["href"]):
        if link.startswith("#"):
            assert link[1:] in places
        elif not link.endswith("README.md"):  # cards are written by another command
            assert (root / unquote(link)).exists(), link


def test_controls_have_names_and_columns_say_how_they_are_sorted(page: Elements) -> None:
    named = {element["for"] for element in page.named("label")}
    for control in (*page.named("select"), *page.named("input")):
        assert control["id"] in named
    heads = [element for element in page.named("th") if "aria-sort" in element]
    assert len(heads) == len([button for button in page.named("button") if "data-key" in button]) == 10
    assert [head["aria-sort"] for head in heads].count("ascending") == 1
    for key in (button["data-key"] for button in page.named("button")):
        assert all(f"data-{key}" in row for row in page.named("tr") if "data-label" in row)


def test_a_gate_has_a_column_where_a_recipe_has_one(tmp_path: Path) -> None:
    """These have one on KL alone; then one of them one on top-1 too."""
    root = model_folder(tmp_path)

    def columns() -> set[str | None]:
        return {button.get("data-key") for button in Elements(write(root).read_text()).named("button")}

    assert "allowed" in columns()
    assert "asked" not in columns()
    path = next(root.glob("*-FP8/manifest.json"))
    written = json.loads(path.read_text())
    written["recipe"]["gates"]["min_top1"] = 0.9
    path.write_text(json.dumps(written))
    path.with_name("verification.json").unlink()
    assert {"allowed", "asked"} <= columns()


def test_charts_are_files_too(root: Path) -> None:
    """In light and in dark; the map of every expert is for a click, and a drawing alone."""
    names = {"size-and-kl", "kl-by-domain", "layer-errors", "memory-vllm", "memory-llama-cpp", "expert-tokens"}
    files = {f"{n}{e}" for n in names for e in (".svg", ".png", "-dark.png")}
    assert {path.name for path in (root / "charts").iterdir()} == {*files, "coverage.svg"}
    for path in (root / "charts" / f"{name}.svg" for name in names):
        width, height = (float(n) for n in re.search(r'width="([\d.]+)" height="([\d.]+)"', path.read_text()).groups())  # type: ignore[union-attr]
        image = path.with_suffix(".png").read_bytes()
        assert image[:8] == b"\x89PNG\r\n\x1a\n"
        assert image != path.with_name(f"{path.stem}-dark.png").read_bytes()
        assert struct.unpack(">II", image[16:24]) == (2 * width, 2 * height)


def test_what_is_drawn_no_more_goes(tmp_path: Path) -> None:
    root = model_folder(tmp_path / "Tiny")
    (root / "charts").mkdir()
    (root / "charts/saliency.svg").write_text("of a checkpoint that stood here before")
    write(root)
    assert not (root / "charts/saliency.svg").exists()


def test_bits_are_counted_in_the_headers_of_the_bf16_variant(tmp_path: Path) -> None:
    root = model_folder(tmp_path / "Tiny")
    path = root / "Tiny-BF16/model.safetensors"
    save_file({"a": torch.zeros(30, 40, dtype=torch.bfloat16), "b": torch.zeros(7)}, path)
    written = json.loads((root / "Tiny-BF16/manifest.json").read_text())
    written["files"]["model.safetensors"]["bytes"] = path.stat().st_size
    write_json(root / "Tiny-BF16/manifest.json", written)
    page = Elements(write(root).read_text(encoding="utf-8"))
    assert float(row_of(page, "FP8")["data-bits"]) == pytest.approx(8 * SIZES["FP8"] / 1207)
    assert float(row_of(page, "BF16")["data-bits"]) == pytest.approx(8 * path.stat().st_size / 1207)


def test_a_pruned_checkpoint_shows_which_experts_stayed_and_what_it_cost(tmp_path: Path) -> None:
    root = model_folder(tmp_path / "Tiny")
    (root / "source/pruning").mkdir()
    for name in ("manifest.json", "plan.json", "verification.json"):
        shutil.copy(PRUNED / name, root / "source/pruning" / name)
    page = Elements(write(root).read_text(encoding="utf-8"))
    said = page.by_id("pruning")["text"]
    assert "12 of 16 experts stay" in said
    cost = json.loads((PRUNED / "verification.json").read_text())["cost"]["norwegian"]
    assert f"{cost['kl']:.4f}" in said
    assert (root / "charts/saliency.svg").read_text() == (PRUNED / "saliency.svg").read_text()
    assert "charts/saliency.svg" in {link["href"] for link in page.named("a")}
    assert (root / "charts/expert-saliency.png").is_file()


def test_a_model_without_artifacts_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", "nothing", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("sixfold: there are no artifacts of nothing under")


# The chooser ----------------------------------------------------------------------------------------------------------


def test_the_embedded_budgets_are_the_budgets(root: Path, page: Elements) -> None:
    """Every machine, engine, cache, length and variant, to the byte."""
    budget = json.loads(page.by_id("budget")["text"])
    assert budget == json.loads(json.dumps(machine_choice(read_model(root))))
    artifacts = {artifact.label: artifact for artifact in read_model(root).artifacts}
    machines = {machine.name: machine for machine in hardware()}
    assert set(machines) == {machine["name"] for machine in budget["machines"]}
    assert budget["contexts"] == [4096, 8192, 16384, 32768, 40960]
    for variant in budget["variants"]:
        artifact = artifacts[variant["label"]]
        assert variant["engines"] == READS.get(variant["label"], ["llama.cpp"])
        for entry in budget["machines"][::4]:
            machine = machines[entry["name"]]
            assert entry["usable"] == {e: machine.usable(e) for e in machine.engines}
            for engine in set(variant["engines"]) & set(entry["overhead"]):
                for cache in CACHES[engine]:
                    found = budget["overhead"][entry["overhead"][engine]][cache]
                    for context, (kv, compute, reserve) in zip(budget["contexts"], found, strict=True):
                        needed = memory(
                            artifact.config,
                            artifact.weight_nbytes,
                            engine,
                            context,
                            cache_type=cache,
                            tensor_parallel=machine.devices,
                            device_bytes=machine.bytes_each,
                        )
                        weights = variant["weights"][str(machine.devices)]
                        assert (weights, kv, compute, reserve) == (
                            needed.weights, needed.kv_cache, needed.compute, needed.reserve,
                        )  # fmt: skip


def expected(root: Path, machine_name: str, context: int, engine: str, bits: str) -> tuple[str, dict[str, int]]:
    """(recipe of the variant to take, "" for none; bytes that each one takes that fits)."""
    machine = next(m for m in hardware() if m.name == machine_name)
    fitting: dict[str, int] = {}
    usable: dict[str, int] = {}
    for artifact in read_model(root).artifacts:
        label = artifact.label
        if label == "NVFP4" or (label == "FP8" and re.sub(r"^\dx-", "", machine_name) not in ON_FP8):
            continue
        for name in READS.get(label, ["llama.cpp"]):
            cache = next((c for c in CACHES[name] if BITS[c] == bits), None)
            if engine not in ("any", name) or name not in machine.engines or cache is None:
                continue
            needed = memory(
                artifact.config,
                SIZES[label],
                name,
                context,
                cache_type=cache,
                tensor_parallel=machine.devices,
                device_bytes=machine.bytes_each,
            ).total
            if needed <= machine.usable(name):
                room, best = machine.usable(name), fitting.get(label)
                if best is None or room - needed > usable[label] - best:
                    fitting[label], usable[label] = needed, room
    measured = [label for label in fitting if label in KL]
    roomy = [label for label in measured if usable[label] - fitting[label] >= 0.1 * usable[label]]
    chosen = max(
        roomy or measured, key=lambda label: (1 - KL[label]) ** 4 / SIZES[label], default=next(iter(fitting), "")
    )
    return RECIPES.get(chosen, ""), {RECIPES[label]: needed for label, needed in fitting.items()}


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    program = chromium.found()
    if program is None:
        pytest.skip("no Chromium on this machine: the page is not opened in a browser (apt-get install chromium)")
    with chromium.browser(program, tmp_path_factory.mktemp("profile")) as page:
        yield page


def choose(tab: chromium.Page, **fields: Any) -> None:
    for name, value in fields.items():
        tab.run(f"document.getElementById({name.replace('_', '-')!r}).value = {str(value)!r}")
    tab.run("document.getElementById('context').dispatchEvent(new Event('input', {bubbles: true}))")


SHOWN_CHARTS = "[...document.querySelectorAll('.charts svg')].filter(s => s.getBoundingClientRect().width > 0)"
RECOMMENDED = "document.getElementById('answer').dataset.recommended"


@pytest.mark.engines
@pytest.mark.parametrize(
    "machine", ["rtx-4090", "2x-rtx-5090", "h100", "mac-studio-64", "mi300x", "gb10", "4x-rtx-4090"]
)
def test_the_chooser_answers_what_the_budgets_say(root: Path, tab: chromium.Page, machine: str) -> None:
    tab.open((root / "report.html").as_uri())
    for context in (4096, 40960):
        for engine in ("any", "vllm", "llama.cpp"):
            for bits in ("16", "8", "4"):
                choose(tab, machine=machine, context=context, engine=engine, cache=bits)
                wanted, fitting = expected(root, machine, context, engine, bits)
                assert tab.run(RECOMMENDED) == wanted, (machine, context, engine, bits)
                items = tab.run(
                    "[...document.querySelectorAll('#ranking li')].filter(li => li.dataset.rank < 2)"
                    ".map(li => [li.dataset.recipe, Number(li.dataset.total)])"
                )
                chosen = dict(items)
                assert set(chosen) == set(fitting)
                if engine != "any":  # of two engines that fit the one with more room is shown
                    assert chosen == fitting


@pytest.mark.engines
def test_the_chooser_takes_a_machine_of_ones_own_and_an_address(root: Path, tab: chromium.Page) -> None:
    """15 GiB less llama.cpp's margin of 1 GiB hold Q3_K_M's 14 GB and little else."""
    tab.open("about:blank")
    tab.open(
        (root / "report.html").as_uri()
        + "#choose?machine=own&own-memory=24&own-devices=1&context=4096&engine=llama.cpp"
    )
    assert tab.run(RECOMMENDED) == "gguf-q4_k_m"
    command = tab.run("document.querySelector('#answer pre').innerText")
    assert command == "llama-server -m Tiny-GGUF/Tiny-Q4_K_M.gguf -c 4096"
    choose(tab, own_memory="40", prefer="close")
    assert tab.run(RECOMMENDED) == "gguf-q8_0"
    choose(tab, prefer="speed")
    assert tab.run(RECOMMENDED) == "gguf-q4_k_m"
    choose(tab, own_memory="15", prefer="balance")
    assert tab.run(RECOMMENDED) == "gguf-q3_k_m"
    assert "was not measured" in tab.run("document.getElementById('answer').innerText")
    choose(tab, own_memory="8")
    assert tab.run(RECOMMENDED) == ""
    assert "None fits" in tab.run("document.getElementById('answer').innerText")
    assert "own-memory=8" in tab.run("location.hash")


@pytest.mark.engines
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_opens_from_a_file_without_a_request_or_a_complaint(
    root: Path, tab: chromium.Page, width: int, dark: bool
) -> None:
    address = (root / "report.html").as_uri()
    tab.open(address, width=width, dark=dark)
    assert [url for url in tab.requested if not url.startswith("data:")] == [address]
    assert tab.complaints == []
    assert tab.run("document.documentElement.scrollWidth") <= width  # no sideways scroll of the page itself
    assert (
        tab.run("Math.max(...[...document.querySelectorAll('nav a')].map(a => a.getBoundingClientRect().right))")
        <= width
    )
    tab.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    rows = "[...document.querySelectorAll('tbody tr')].map(row => row.getBoundingClientRect().height)"
    assert tab.run(f"Math.max(...{rows})") < 200  # a checksum wrapped at every letter is taller
    table = "document.querySelector('#comparison').parentElement"
    assert width < 500 or tab.run(f"{table}.scrollWidth - {table}.clientWidth") == 0
    shown = tab.run(
        "[...document.querySelectorAll('.charts svg')].filter(s => s.getBoundingClientRect().width > 0).length"
    )
    assert shown == 5
    paper = tab.run("getComputedStyle(document.querySelector('.card')).backgroundColor")
    wanted = tuple(int(DARK.paper[n : n + 2], 16) for n in (1, 3, 5)) if dark else (255, 255, 255)
    assert paper == f"rgb{wanted}"
    charted = tab.run("getComputedStyle(document.querySelector('.charts svg .paper')).fill")
    assert charted == paper


@pytest.mark.engines
@pytest.mark.parametrize("width", [390, 1280])
def test_names_on_charts_do_not_cover_one_another_in_a_real_font(root: Path, tab: chromium.Page, width: int) -> None:
    tab.open((root / "report.html").as_uri(), width=width)
    charts = tab.run(
        f"{SHOWN_CHARTS}.map(s => "
        "[...s.querySelectorAll('text:not([transform])')].map(t => {const b = t.getBBox();"
        " return [t.textContent, b.x, b.y + 2, b.x + b.width, b.y + b.height - 3, s.viewBox.baseVal.width]}))"
    )
    for texts in charts:
        for text, left, _, right, _, whole in texts:
            assert left >= 0, text
            assert right <= whole, text
        for (a, l1, t1, r1, b1, _), (b, l2, t2, r2, b2, _) in combinations(texts, 2):
            assert min(r1, r2) <= max(l1, l2) or min(b1, b2) <= max(t1, t2), (a, b)


@pytest.mark.engines
def test_it_can_be_used_by_keyboard(root: Path, tab: chromium.Page) -> None:
    tab.open((root / "report.html").as_uri())
    choose(tab, machine="rtx-4090", context=4096, engine="any", cache="16")
    focused = "document.activeElement.id || document.activeElement.dataset.key || document.activeElement.href || ''"
    reached = []
    for _ in range(60):
        tab.press("Tab")
        reached.append(tab.run(focused))
        if reached[-1] == "machine":
            before = tab.run("document.getElementById('machine').value")
            tab.press("ArrowDown")
            after = tab.run("document.getElementById('machine').value")
            assert after != before
            assert tab.run(RECOMMENDED) == expected(root, after, 4096, "any", "16")[0]
        if reached[-1] == "mean":
            tab.press("Enter")
            break
    assert "content" in reached[0]  # the link past the navigation comes first
    assert {"machine", "context", "engine", "cache", "comparison", "size", "mean"} <= {*reached, "comparison"}
    order = "[...document.querySelectorAll('#comparison tbody tr')].map(row => row.dataset.label)"
    assert tab.run("document.querySelector('#comparison [aria-sort=ascending] button').dataset.key") == "mean"
    by_kl = sorted(KL, key=lambda label: KL[label])
    assert tab.run(order) == [*by_kl, "Q3_K_M"]  # what was not measured stands last
    tab.press("Enter")
    assert tab.run("document.querySelector('#comparison [aria-sort=descending] button').dataset.key") == "mean"
    assert tab.run(order) == [*by_kl[::-1], "Q3_K_M"]


def test_an_evaluation_stands_beside_the_checks(tmp_path: Path) -> None:
    """Strict, on completed problems and raw, each traced to the file that says it."""
    root = model_folder(tmp_path)
    folder = next(path for path in root.iterdir() if path.name.endswith("-FP8"))
    found = evaluation(content_digest(json.loads((folder / "manifest.json").read_text())))
    write_json(folder / "evaluation.json", found)
    elements = Elements(write(root).read_text())
    shown = [e for e in elements.all if e.get("data-file") == f"{folder.name}/evaluation.json"]
    by_pointer = {e["data-at"]: e["text"] for e in shown}
    assert by_pointer["/benchmarks/0/passed"] == "120"
    assert by_pointer["/benchmarks/0/completed/answers"] == "161"
    assert by_pointer["/benchmarks/0/raw/passed"] == "98"
    assert by_pointer["/endings/looping"] == "2"
    assert by_pointer["/benchmarks/0/baseline/passed"] == "123"
    for element in shown:
        assert str(resolved(found, element["data-at"])) == element["value"]
