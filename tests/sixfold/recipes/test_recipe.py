"""Recipes: what ships resolves, `extends:` and overrides do what they say, and every mistake is named at once."""

import os
import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from sixfold.errors import UsageError
from sixfold.recipes.recipe import Calibration, load_recipes, recipe_schema, shipped_profiles, shipped_recipes

ALL = ["bf16", "fp8", "nvfp4", "nvfp4-gb10", "awq"]
GGUF = ["gguf-q3_k_m", "gguf-iq4_xs", "gguf-q4_k_m", "gguf-q6_k", "gguf-q8_0"]


class Options(BaseModel):
    """Stands for an exporter's options."""

    model_config = ConfigDict(extra="forbid")

    layout: str = "plain"
    depth: int = 2


class NoOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")


def options_of(exporter: str) -> type[BaseModel]:
    models = {"fp8": Options, "bf16": NoOptions}
    if exporter not in models:
        raise UsageError(f"there is no exporter {exporter!r}", "use fp8 or bf16")
    return models[exporter]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return f"./{name}"


def refusal(name: str, *overrides: str) -> str:
    with pytest.raises(UsageError) as error:
        load_recipes(name, overrides, options_of)
    assert error.value.exit_code == 2
    return str(error.value)


WHOLE = "name: mine\nsuffix: MINE\ntitle: My own\nexporter: fp8\nscheme: FP8_DYNAMIC\n"


def test_a_set_may_say_how_all_its_recipes_round() -> None:
    write("set.yaml", "name: set\nrounding: compensated\nrecipes: [fp8, bf16]\n")
    assert [recipe.rounding for recipe in load_recipes("./set.yaml")] == ["compensated"] * 2
    assert [recipe.rounding for recipe in load_recipes("./set.yaml", ["rounding=nearest"])] == ["nearest"] * 2
    write("wrong.yaml", "name: set\nrounding: exact\nrecipes: [fp8]\n")
    assert "wrong.yaml:2: rounding: 'exact': is not known here; write nearest or compensated" in refusal("./wrong.yaml")


def test_shipped_recipes_compensate_where_they_calibrate() -> None:
    (fp8,) = load_recipes("fp8")
    assert fp8.rounding == "nearest"
    everything = {recipe.name: recipe.rounding for recipe in load_recipes("all-formats")}
    assert set(everything.values()) == {"compensated"}
    (gb10,) = load_recipes("nvfp4-gb10")
    assert gb10.rounding == "compensated"


def test_all_formats_is_every_variant_with_bf16_first() -> None:
    assert [recipe.name for recipe in load_recipes("all-formats")] == ALL + GGUF
    assert [recipe.name for recipe in load_recipes("gguf")] == GGUF


def test_suffixes_are_those_of_the_output_tree() -> None:
    suffixes = [recipe.suffix for recipe in load_recipes("all-formats")]
    assert suffixes == ["BF16", "FP8", "NVFP4", "NVFP4-GB10", "AWQ"] + ["GGUF"] * 5


@pytest.mark.parametrize("path", shipped_recipes(), ids=lambda path: path.stem)
def test_every_shipped_file_bears_its_own_name_and_points_editors_to_the_schema(path: Path) -> None:
    assert f"name: {path.stem}\n" in path.read_text()
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")
    assert load_recipes(path.stem) == load_recipes(str(path))


def test_shipped_variants_share_one_calibration_profile() -> None:
    assert {recipe.calibration for recipe in load_recipes("all-formats")} == {Calibration()}


def test_extends_merges_mappings_and_replaces_lists() -> None:
    write("base.yaml", WHOLE + "keep: [a, b]\ncalibration: {samples: 3, length: 7}\noptions: {layout: tall}\n")
    child = write("child.yaml", "name: child\nextends: base.yaml\nkeep: [c]\ncalibration: {length: 9}\n")
    (recipe,) = load_recipes(child, (), options_of)
    assert recipe.keep == ("c",)
    assert (recipe.calibration.samples, recipe.calibration.length) == (3, 9)
    assert recipe.options == {"layout": "tall", "depth": 2}
    assert recipe.suffix == "MINE"


def test_a_path_is_relative_to_the_file_that_names_it(here: Path) -> None:
    (here / "below").mkdir()
    write("below/base.yaml", WHOLE)
    write("below/set.yaml", "name: set\nrecipes: [base.yaml, bf16]\n")
    assert [recipe.name for recipe in load_recipes("below/set.yaml")] == ["mine", "bf16"]


def test_overrides_are_yaml_and_go_before_the_file() -> None:
    path = write("mine.yaml", WHOLE)
    overrides = ("calibration.samples=16", "keep=[lm, 'q.*proj']", "gates.max_mean_kl=0.02", "options.depth=5")
    (recipe,) = load_recipes(path, overrides, options_of)
    assert recipe.calibration.samples == 16
    assert recipe.keep == ("lm", "q.*proj")
    assert recipe.gates.max_mean_kl == 0.02
    assert recipe.options["depth"] == 5


def test_an_option_on_a_set_reaches_the_recipes_whose_exporter_has_it() -> None:
    write("set.yaml", "name: set\nrecipes: [bf16, ./mine.yaml]\n")
    write("mine.yaml", WHOLE)
    bf16, mine = load_recipes("./set.yaml", ("options.depth=4", "calibration.seed=3"), options_of)
    assert bf16.options == {}
    assert mine.options["depth"] == 4
    assert bf16.calibration.seed == mine.calibration.seed == 3


def test_every_error_is_listed_with_file_line_key_and_remedy() -> None:
    path = write(
        "bad.yaml",
        "name: bad\nextends: fp8\nsufix: X\nkeep: ['[a']\ncalibration:\n  samplez: 3\n  length: -1\n"
        "gates: {max_mean_kl: high}\noptions: {layot: 1}\n",
    )
    lines = refusal(path, "calibration.samples=x", "nonsense").splitlines()
    assert lines[0] == "recipe ./bad.yaml has 8 errors:"
    text = "\n".join(lines)
    for part in (
        "bad.yaml:3: sufix: unknown key; perhaps suffix is meant",
        "bad.yaml:4: keep.0: '[a': is not a regular expression",
        "bad.yaml:6: calibration.samplez: unknown key; perhaps samples is meant",
        "bad.yaml:7: calibration.length: -1: is not more than 0; write a number within the bounds",
        "bad.yaml:8: gates.max_mean_kl: 'high': is not a number; write a number, such as 0.05",
        "bad.yaml:9: options.layot: unknown key; perhaps layout is meant",
        "--set: calibration.samples: 'x': is not a whole number; write one, such as 64",
        "--set 'nonsense' is not an override; write key=value",
    ):
        assert part in text
    places = [int(found[1]) for found in re.finditer(r"bad\.yaml:(\d+):", text)]
    assert places == sorted(places)


def test_a_misspelt_extends_is_one_error_and_not_five() -> None:
    """What the other recipe would have brought is not missing by itself."""
    said = refusal(write("x.yaml", "name: x\nextend: fp8\nsuffix: X\n"))
    assert said == "x.yaml:2: extend: unknown key; perhaps extends is meant."


def test_no_error_speaks_of_python() -> None:
    """Every kind of value, wrong in every recipe key that has it."""
    said = refusal(
        write(
            "x.yaml",
            "name: 'a b'\nsuffix: ''\ntitle: []\nexporter: fp8\nscheme: 3\nkeep: {a: 1}\nrounding: 7\nindivisible: no\n"
            "calibration: {moments: maybe, seed: 1.5, imatrix: '', texts: x}\ngates: [1]\noptions: 4\nengines: vLLM\n",
        )
    )
    for foreign in ("Input", "valid", "dictionary", "tuple", "instance", "integer", "string", "boolean", "parse"):
        assert foreign not in said, said
    assert all(";" in line for line in said.splitlines()[1:])


def test_an_error_in_an_extended_file_names_that_file() -> None:
    write("base.yaml", WHOLE + "calibration: {length: none}\n")
    assert "base.yaml:6: calibration.length:" in refusal(write("child.yaml", "name: child\nextends: base.yaml\n"))


def test_a_circle_is_refused() -> None:
    write("a.yaml", "name: a\nextends: b.yaml\n")
    write("b.yaml", "name: b\nextends: a.yaml\n")
    assert "b.yaml:2: extends: is circular (a.yaml -> b.yaml -> a.yaml); break it" in refusal("./a.yaml")
    assert "is circular" in refusal(write("s.yaml", "name: s\nrecipes: [fp8, s.yaml]\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\n", "suffix: is missing; add it, or take it from another recipe with `extends:`"),
        ("extends: fp8\n", "name: is missing; give the recipe a name of its own"),
        ("name: x\nextends: fp9\n", "x.yaml:2: extends: there is no recipe 'fp9'; perhaps fp8 is meant"),
        ("name: x\nextends: gguf\n", "x.yaml:2: extends: gguf is a set; extend one of its recipes"),
        ("name: x\nextends: [fp8]\n", "x.yaml:2: extends: is not one name or path"),
        ("name: x\nrecipes: fp8\n", "x.yaml:2: recipes: is not a list of names"),
        ("name: x\nrecipes: [fp8, fp8]\n", "'fp8' names 2 recipes"),
        ("name: x\nrecipes: [fp8]\nkeep: []\n", "x.yaml:3: keep: a set takes only name, title, recipes and rounding"),
        (WHOLE + "name: again\n", "x.yaml:6: name: is written twice"),
        (WHOLE.replace("fp8", "fp7"), "x.yaml:4: exporter: there is no exporter 'fp7'; use fp8 or bf16"),
        ("name: [x\n", "is not valid YAML"),
        ("- x\n", "is not a list of `key: value` lines"),
        ("", "is not a list of `key: value` lines"),
        ("name: x\x00\n", "x.yaml is not valid YAML: unacceptable character #x0000"),
        (WHOLE + "keep: attention\n", "x.yaml:6: keep: 'attention': is not a list; write it in brackets: [a, b]"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    assert message in refusal(write("x.yaml", text))


def test_a_file_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("x.yaml", WHOLE)

    def refused(path: Path, **options: str) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refused)
    assert "x.yaml cannot be read: Permission denied; check its permissions" in refusal(path)


def test_an_option_that_no_exporter_of_a_set_has_is_refused() -> None:
    write("set.yaml", "name: set\nrecipes: [bf16, fp8]\n")
    message = refusal("./set.yaml", "options.layot=1")
    assert message == "--set: options.layot: no exporter here has this option; perhaps layout is meant."


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("sample=3", "calibration.samples"),
        ("layot=modelopt", "options.layout"),
        ("bits=4", "budget.bits"),
        ("calibration.max_kl=1", "gates.max_mean_kl"),
        ("optoins.layout=3", "options"),
        ("nam=x", "name"),
    ],
)
def test_a_key_of_another_group_is_named_with_its_group(override: str, meant: str) -> None:
    """And the override is blamed, not the recipe's file."""
    key = override.partition("=")[0].removesuffix(".layout")
    assert refusal("fp8", override) == f"--set: {key}: unknown key; perhaps {meant} is meant."


def test_an_unknown_name_gets_the_nearest_and_a_missing_path_is_named(here: Path) -> None:
    assert refusal("nvfp4-gb1") == "there is no recipe 'nvfp4-gb1'; perhaps nvfp4-gb10 is meant."
    assert refusal("elsewhere/my.yaml") == f"there is no recipe file elsewhere{os.sep}my.yaml; check the path."


def test_the_schema_knows_each_exporters_options() -> None:
    schema = recipe_schema({"fp8": Options})
    assert {"name", "extends", "recipes", "calibration", "options"} <= schema["properties"].keys()
    assert schema["$defs"]["fp8-options"]["properties"].keys() == {"layout", "depth"}
    assert schema["$defs"]["Calibration"]["properties"]["samples"]["description"] == "Number of token windows."


def test_texts_are_paths_and_datasets_and_are_dumped_as_short_as_they_can_be() -> None:
    texts = "[builtin, {path: mine.jsonl}, {path: b.txt, weight: 2}, {dataset: lab/set, subset: code, revision: v1}]"
    (recipe,) = load_recipes("fp8", [f"calibration.texts={texts}"])
    assert [text.name for text in recipe.calibration.texts] == [
        "builtin",
        "mine.jsonl",
        "b.txt",
        "lab/set:code:train@v1",
    ]
    dumped = recipe.model_dump(mode="json")["calibration"]["texts"]
    assert dumped == [
        "builtin",
        "mine.jsonl",
        {"path": "b.txt", "weight": 2},
        {"dataset": "lab/set", "subset": "code", "split": "train", "revision": "v1"},
    ]
    assert type(recipe).model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("[]", "texts: []: names no text"),
        ("[7]", "texts.0: 7: is neither a path nor a mapping"),
        ("[{weight: 2}]", "texts.0: {'weight': 2}: name a path or a dataset"),
        ("[{path: a.txt, split: test}]", "a path has no split"),
        ("[{datset: lab/set}]", "texts.0.datset: unknown key; perhaps dataset is meant"),
        ("[{dataset: lab/set, weight: 0}]", "texts.0.weight: 0: is not more than 0"),
    ],
)
def test_what_is_wrong_with_an_entry_of_texts_is_said_once(texts: str, message: str) -> None:
    said = refusal("fp8", f"calibration.texts={texts}")
    assert message in said
    assert "errors" not in said


def test_a_profile_lies_under_the_keys_beside_it_and_over_the_recipe_below() -> None:
    write("base.yaml", WHOLE + "calibration: {samples: 3, length: 7, sample_rows: 5}\n")
    write("my.yaml", "samples: 11\nlength: 13\ntexts: [own.txt]\n")
    (mine,) = load_recipes(
        write("child.yaml", "name: child\nextends: base.yaml\ncalibration: {profile: ./my.yaml, length: 9}\n")
    )
    calibration = mine.calibration
    assert (calibration.samples, calibration.length, calibration.sample_rows) == (11, 9, 5)
    assert [text.name for text in calibration.texts] == ["own.txt"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["calibration.profile=reap", "calibration.samples=12"],
        ["calibration.samples=12", "calibration.profile=reap"],
        ["calibration={profile: reap, samples: 12}"],
    ],
)
def test_a_profile_can_be_set_from_the_command_line(overrides: list[str]) -> None:
    calibrations = {recipe.calibration for recipe in load_recipes("all-formats", overrides)}
    (calibration,) = calibrations
    assert (calibration.samples, calibration.length) == (12, 2048)
    assert len(calibration.texts) == 6


def test_profiles_are_refused_where_they_cannot_be_read() -> None:
    assert "there is no calibration profile 'raep'; perhaps reap is meant" in refusal("fp8", "calibration.profile=raep")
    write("my.yaml", "sampels: 11\n")
    said = refusal(write("mine.yaml", WHOLE + "calibration: {profile: ./my.yaml}\n"))
    assert "my.yaml:1: calibration.sampels: unknown key; perhaps samples is meant" in said
    assert "mine.yaml:6: calibration.profile: is not one name" in refusal(
        write("mine.yaml", WHOLE + "calibration: {profile: [a]}\n")
    )


@pytest.mark.parametrize("path", shipped_profiles(), ids=lambda path: path.stem)
def test_every_shipped_profile_resolves(path: Path) -> None:
    assert load_recipes("fp8", [f"calibration.profile={path.stem}"])[0].calibration.texts
