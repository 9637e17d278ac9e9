"""Recipes: how one variant is made, as validated data.

A recipe is a YAML file; sixfold.recipes.recipe_files reads it, follows `extends:` and applies overrides. This module
defines what a resolved recipe holds, how a name becomes recipes, and the JSON schema by which an editor completes and
checks them.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from sixfold.boundary.patterns import pattern
from sixfold.errors import UsageError
from sixfold.recipes import recipe_files
from sixfold.recipes.budget import Budget
from sixfold.recipes.keys import dotted_keys, keys_beside, nearest_key
from sixfold.recipes.plain_words import wrong_value
from sixfold.recipes.recipe_files import OVERRIDE, Draft, Problem, closest
from sixfold.recipes.text_source import BUILTIN, Text, TextSource

OptionsOf = Callable[[str], type[BaseModel]]
"""Exporter name -> the pydantic model that `options:` must satisfy (UsageError where there is no such exporter).
The command line passes what the registry knows; the spine knows no exporter."""
SchemesOf = Callable[[str], Sequence[str]]
"""Exporter name -> the schemes that it makes, () where any may be meant."""


def _regular_expression(text: str) -> str:
    try:
        pattern(text)
    except ValueError as error:
        raise ValueError(f"is not a regular expression ({error})") from None
    return text


def _at_least_one(texts: tuple[TextSource, ...]) -> tuple[TextSource, ...]:
    if not texts:
        raise ValueError("names no text")
    return texts


_OF_FILES = ("extends", "recipes")
"""Keys of a recipe's file beside those of a recipe."""

Model = TypeVar("Model", bound=BaseModel)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Pattern = Annotated[str, AfterValidator(_regular_expression)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Calibration(_Strict):
    """What one calibration pass over the model reads. Variants with equal profiles share the pass."""

    texts: Annotated[tuple[Text, ...], AfterValidator(_at_least_one), Field(json_schema_extra={"minItems": 1})] = (
        TextSource(path=BUILTIN),
    )
    """"builtin", paths of text files and folders, and datasets of the Hugging Face Hub, with weights."""
    samples: PositiveInt = 64
    """Number of token windows."""
    length: PositiveInt = 512
    """Tokens in a window."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Which windows are drawn, and which rows are kept."""
    sample_rows: PositiveInt = 128
    """Input rows kept of every input site (of every expert), for searches such as AWQ's."""
    moments: bool = True
    """Sum the second moments of every input, which `rounding: compensated` needs."""
    min_tokens: PositiveInt = 32
    """An expert that fewer tokens are routed to is starved: its own statistics are not reliable."""
    starved: Literal["average", "all_experts", "fail"] = "average"
    """What replaces a starved expert's statistics: the average over the layer's other experts, its inputs for extra
    tokens that it is not routed to, or nothing ("fail" stops the calibration)."""
    special_tokens: Literal["count", "leave_out"] = "count"
    """Whether statistics count the tokenizer's special tokens (BOS, turn markers), whose activations can be extreme."""
    imatrix: Annotated[str, Field(min_length=1)] | None = None
    """Path of an importance matrix of llama.cpp's, relative to the current folder, that GGUF files are weighted by in
    place of a pass over the texts; formats that need more than it holds refuse it."""


class Gates(_Strict):
    """Limits on the variant's divergence from the BF16 source, and on its answers; no gate if unset."""

    max_kl_ratio: Annotated[float, Field(gt=0)] | None = None
    """Largest mean KL divergence per token, as a multiple of what rounding the same weights plainly to the same format
    costs on the same text; the error of hidden states behind a layer may be as many times as large."""
    max_mean_kl: Annotated[float, Field(gt=0)] | None = None
    """Largest mean KL divergence per token, natural logarithm."""
    min_top1: Annotated[float, Field(ge=0, le=1)] | None = None
    """Smallest share of positions whose most likely token is the source's."""
    max_more_looping: Annotated[float, Field(ge=0, le=1)] | None = None
    """By how much the share of sampled answers that run in a loop may exceed the baseline's (`sixfold evaluate`)."""
    max_fewer_ended: Annotated[float, Field(ge=0, le=1)] | None = None
    """By how much the share of sampled answers that end by themselves may fall short of the baseline's."""


class Recipe(_Strict):
    """One variant of a checkpoint."""

    name: Name
    """What FORMAT= calls it; unique in a set."""
    suffix: Name
    """Ends the names of the output folder and repository: <model>-<suffix>. GGUF recipes share one."""
    title: Annotated[str, Field(min_length=1)]
    """What the variant is, for people."""
    exporter: str
    """Which exporter makes it."""
    scheme: str
    """What the exporter makes: a preset of compressed-tensors, a llama.cpp file type, ..."""
    keep: tuple[Pattern, ...] = ()
    """Regular expressions, searched in Linear names: what else stays in the source's precision."""
    rounding: Literal["nearest", "compensated"] = "nearest"
    """Each weight to the level nearest to it, as the format's library does ("nearest"), or all of a row so that its
    outputs change least on the calibration's texts ("compensated")."""
    indivisible: Literal["keep", "fail"] = "keep"
    """A Linear whose size its group does not divide stays in BF16 ("keep") or stops the export ("fail")."""
    calibration: Calibration = Calibration()
    """What the statistics come from, where the exporter needs any."""
    budget: Budget | None = None
    """How large the variant's weights may be, where the exporter mixes types; each tensor's type is then chosen by the
    damage that calibration's statistics foretell."""
    engines: tuple[str, ...] = ()
    """Engines that read the format, for the card."""
    hardware: tuple[str, ...] = ()
    """Hardware the format is meant for, for the card."""
    gates: Gates = Gates()
    """Quality that the variant must hold."""
    options: dict[str, Any] = {}
    """The exporter's own options."""

    @property
    def label(self) -> str:
        """The scheme, with the budget that its types are chosen to: "Q4_K_M", "AUTO-4.5bpw"."""
        return self.scheme if self.budget is None else f"{self.scheme}-{self.budget.label}"

    @property
    def compensates(self) -> bool:
        """Whether errors are to be compensated, where the exporter can: an importance matrix has no second moments."""
        return self.rounding == "compensated" and self.calibration.imatrix is None


def load_recipes(
    name: str, overrides: Sequence[str] = (), options_of: OptionsOf | None = None, schemes_of: SchemesOf | None = None
) -> tuple[Recipe, ...]:
    """A shipped name, a set's name or a path of a YAML file -> the resolved recipe, or a set's recipes in its order.

    overrides: "key=value" with dotted keys and YAML values. On a set they hold for every recipe in it; an exporter's
    option (`options.x`) for those whose exporter has it, which must be at least one.
    options_of: where given, exporter options are checked, and filled up with their defaults. schemes_of: where given,
    schemes are checked.
    Raises UsageError that lists every error of every file at once.
    """
    drafts, problems = recipe_files.read(name)
    changes, more = recipe_files.parse_overrides(overrides)
    problems = [*problems, *more]
    models, more = _option_models(drafts, options_of)
    problems += more
    for change in changes:
        takers = [draft for draft in drafts if _takes(draft, change.path, models)]
        for draft in takers:
            change.apply(draft)
        if drafts and not takers:
            known = {key for model in models.values() for key in model.model_fields}
            remedy = closest(change.path[1], known) or f"the options here are {', '.join(sorted(known)) or 'none'}"
            problems.append(Problem(OVERRIDE, None, ".".join(change.path), "no exporter here has this option", remedy))
    recipes = []
    for draft in drafts:
        recipe, more = _checked(draft, models)
        problems += [*more, *_wrong_scheme(draft, schemes_of)]
        recipes += [recipe] if recipe else []
    problems += _clashes(recipes)
    if problems:
        # Problems in a file that several recipes extend are reported once.
        raise UsageError(_listing(name, _in_order(_without_consequences(list(dict.fromkeys(problems))))))
    return tuple(recipes)


def shipped_recipes() -> tuple[Path, ...]:
    """The YAML files that come with the project, sets included, sorted by name."""
    return recipe_files.shipped()


def shipped_profiles() -> tuple[Path, ...]:
    """The calibration profiles that come with the project, sorted by name."""
    return recipe_files.shipped(recipe_files.PROFILES)


def recipe_schema(models: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a recipe file or a set of recipes, before `extends:` is followed.

    models: exporter name -> its model of `options:`.
    """
    schema = Recipe.model_json_schema()
    required = schema.pop("required")
    definitions = schema["$defs"]
    definitions["Calibration"]["properties"]["profile"] = {
        "description": "A shipped profile's name, or a path relative to this file; keys set beside it take precedence.",
        "type": "string",
    }
    properties = schema["properties"] | {
        "exporter": {
            "description": "Which exporter makes it: a shipped one, or a module of your own.",
            "anyOf": [{"enum": sorted(models)}, {"type": "string", "pattern": "\\."}],
        },
        "extends": {
            "description": "A shipped recipe's name, or a path relative to this file; keys set here take precedence.",
            "type": "string",
        },
        "recipes": {
            "description": "Makes the file a set: names or paths of recipes and sets, in order.",
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
        },
    }
    whole = {"not": {"anyOf": [{"required": ["extends"]}, {"required": ["recipes"]}]}}
    rules: list[dict[str, Any]] = [{"if": whole, "then": {"required": required}}]
    for exporter, model in sorted(models.items()):
        options = model.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= options.pop("$defs", {})
        definitions[f"{exporter}-options"] = options
        named = {"properties": {"exporter": {"const": exporter}}, "required": ["exporter"]}
        rules.append({"if": named, "then": {"properties": {"options": {"$ref": f"#/$defs/{exporter}-options"}}}})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sixfold recipe",
        "type": "object",
        "properties": properties,
        "required": ["name"],
        "additionalProperties": False,
        "allOf": rules,
        "$defs": definitions,
    }


def _option_models(
    drafts: Sequence[Draft], options_of: OptionsOf | None
) -> tuple[dict[str, type[BaseModel]], list[Problem]]:
    """The options models of the exporters that the drafts name."""
    models: dict[str, type[BaseModel]] = {}
    problems = []
    for draft in drafts if options_of else ():
        exporter = draft.values.get("exporter")
        if not isinstance(exporter, str) or exporter in models:
            continue
        try:
            models[exporter] = options_of(exporter) if options_of else BaseModel
        except UsageError as error:
            problems.append(Problem(*draft.origin(("exporter",)), error.what, error.remedy))
    return models, problems


def _takes(draft: Draft, path: Sequence[str], models: Mapping[str, type[BaseModel]]) -> bool:
    """Whether an override of `path` applies to this recipe: exporters' options only where the exporter has them."""
    model = models.get(str(draft.values.get("exporter")))
    return path[0] != "options" or len(path) < 2 or model is None or path[1] in model.model_fields


def _checked(draft: Draft, models: Mapping[str, type[BaseModel]]) -> tuple[Recipe | None, list[Problem]]:
    """The recipe that a draft states, or what is wrong with it."""
    model = models.get(str(draft.values.get("exporter")))
    everywhere = [*dotted_keys(Recipe), *(dotted_keys(model, "options.") if model else ())]
    recipe, problems = _validated(Recipe, draft, draft.values, (), everywhere)
    written = draft.values.get("options", {})
    if model is None or not isinstance(written, dict):
        return recipe, problems
    options, more = _validated(model, draft, written, ("options",), everywhere)
    if recipe and options:
        recipe = recipe.model_copy(update={"options": options.model_dump(mode="json")})
    return recipe, [*problems, *more]


def _wrong_scheme(draft: Draft, schemes_of: SchemesOf | None) -> list[Problem]:
    exporter, scheme = (draft.values.get(key) for key in ("exporter", "scheme"))
    known = schemes_of(exporter) if schemes_of and isinstance(exporter, str) else ()
    if not known or not isinstance(scheme, str) or scheme in known:
        return []
    remedy = closest(scheme, known) or f"use one of {', '.join(known)}"
    return [Problem(*draft.origin(("scheme",)), f"the exporter {exporter} makes no {scheme!r}", remedy)]


def _validated(
    model: type[Model], draft: Draft, values: Mapping[str, Any], prefix: tuple[str, ...], everywhere: Sequence[str]
) -> tuple[Model | None, list[Problem]]:
    try:
        return model.model_validate(values), []
    except ValidationError as error:
        problems = []
        for entry in error.errors(include_url=False):
            path = prefix + tuple(str(part) for part in entry["loc"])
            problems.append(Problem(*draft.origin(path), *_explained(model, entry, path, everywhere)))
        return None, problems


def _explained(
    model: type[BaseModel], entry: Mapping[str, Any], path: tuple[str, ...], everywhere: Sequence[str]
) -> tuple[str, str]:
    """What is wrong and what to do, from one of pydantic's errors. everywhere: dotted keys that a recipe may have."""
    if entry["type"] == "extra_forbidden":
        known = [*keys_beside(model, entry["loc"]), *(_OF_FILES if len(path) == 1 and model is Recipe else ())]
        listed = f"the keys here are {', '.join(sorted(known)) or 'none'}"
        return "unknown key", nearest_key(path[-1], known, everywhere) or listed
    if entry["type"] == "missing":
        return "is missing", "add it, or take it from another recipe with `extends:`"
    what, remedy = wrong_value(entry["type"], entry.get("ctx") or {}, entry["msg"])
    return f"{entry['input']!r}: {what}", remedy


def _without_consequences(problems: Sequence[Problem]) -> list[Problem]:
    """Where `extends:` is misspelt, keys are missing that it would have brought."""
    misspelt = {p.file for p in problems if p.what == "unknown key" and "extends" in p.remedy}
    return [p for p in problems if not (p.what == "is missing" and p.file in misspelt)]


def _in_order(problems: Sequence[Problem]) -> list[Problem]:
    """File by file as they were read, in the order of their lines."""
    files = list(dict.fromkeys(p.file for p in problems))
    return sorted(problems, key=lambda p: (files.index(p.file), p.line or 0))


def _clashes(recipes: Sequence[Recipe]) -> list[Problem]:
    names = [recipe.name for recipe in recipes]
    return [
        Problem("the set", None, "name", f"{name!r} names {names.count(name)} recipes", "give each its own name")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]


def _listing(name: str, problems: Sequence[Problem]) -> str:
    if len(problems) == 1:
        return str(problems[0])
    return "\n  ".join([f"recipe {name} has {len(problems)} errors:", *map(str, problems)])
