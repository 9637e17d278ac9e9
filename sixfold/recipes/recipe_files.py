"""Recipe files as they are written: YAML with line numbers, `extends:`, sets, and overrides of single keys.

Nothing here knows what a recipe means; sixfold.recipes.recipe checks that.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sixfold.boundary.yaml_text import line_and_problem, loader_of, parse_yaml
from sixfold.errors import UsageError

FOLDER = Path(__file__).parents[2] / "recipes"
PROFILES = FOLDER / "profiles"
OVERRIDE = "--set"

KeyPath = tuple[str, ...]

_BUDGET = "budget"
_LIMITS = {"bits", "bytes", "times", "fits"}
"""Keys of a budget of which one is set."""
_CALIBRATION: KeyPath = ("calibration",)
_PROFILE = "profile"
_ROUNDING = "rounding"
"""The one key of a recipe that a set may hold, for all its recipes."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong: the file (or `--set`), the line where known, the dotted key, what, and what to do."""

    file: str
    line: int | None
    key: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        subject = f"{place}: {self.key}" if self.key else place
        text = f"{subject}{': ' if self.key else ' '}{self.what}" if subject else self.what
        return text + (f"; {self.remedy}" if self.remedy else "")


@dataclass
class Draft:
    """A recipe after `extends:`: its values, and where each key was written."""

    file: str
    values: dict[str, Any]
    places: dict[KeyPath, tuple[str, int | None]] = field(default_factory=dict)

    def origin(self, path: KeyPath) -> tuple[str, int | None, str]:
        """File, line and dotted key of the value at `path`, or of the nearest key around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return *self.places[path[:length]], ".".join(path)
        return self.file, None, ".".join(path)


@dataclass(frozen=True)
class Override:
    """`a.b=value` from the command line, value read as YAML."""

    path: KeyPath
    value: Any

    def apply(self, draft: Draft) -> None:
        nested = self.value
        for key in reversed(self.path):
            nested = {key: nested}
        draft.values = _merged(draft.values, nested)
        draft.places[self.path] = (OVERRIDE, None)
        for length in range(1, len(self.path)):  # a group that only the override names is its own
            draft.places.setdefault(self.path[:length], (OVERRIDE, None))


def shipped(folder: Path = FOLDER) -> tuple[Path, ...]:
    return tuple(sorted(folder.glob("*.yaml"), key=lambda path: path.stem))


def read(name: str) -> tuple[list[Draft], list[Problem]]:
    """The recipe or the set of that name or path, `extends:` followed, with everything wrong in the files' form."""
    path, problem = _locate(name, Path(), Problem("", None, "", ""))
    if path is None:
        return [], [problem] if problem else []
    problems: list[Problem] = []
    return _read_all(path, (), problems), problems


def check_name(name: str) -> None:
    """Raises UsageError where there is no recipe and no set of that name or path."""
    _, problem = _locate(name, Path(), Problem("", None, "", ""))
    if problem is not None:
        raise UsageError(str(problem))


def parse_overrides(overrides: Sequence[str]) -> tuple[list[Override], list[Problem]]:
    found: list[Override] = []
    problems: list[Problem] = []
    for text in overrides:
        key, equals, value = text.partition("=")
        path = tuple(key.strip().split("."))
        if not equals or not all(path):
            problems.append(
                Problem(OVERRIDE, None, "", f"{text!r} is not an override", "write key=value or group.key=value")
            )
            continue
        try:
            found.append(Override(path, parse_yaml(value)))
        except yaml.YAMLError:
            problems.append(Problem(OVERRIDE, None, key, f"{value!r} is not valid YAML", "quote it"))
    return _profiles_first(found, problems), problems


def _profiles_first(overrides: list[Override], problems: list[Problem]) -> list[Override]:
    """Profiles as overrides of single keys; the others refine them, in any order."""
    single = [
        Override((*_CALIBRATION, key), value)
        for override in overrides
        if override.path == _CALIBRATION and isinstance(override.value, dict)
        for key, value in override.value.items()
    ]
    single += [o for o in overrides if o.path != _CALIBRATION or not isinstance(o.value, dict)]
    profiles = [_profile_keys(o.value, problems) for o in single if o.path == (*_CALIBRATION, _PROFILE)]
    return [key for keys in profiles for key in keys] + [o for o in single if o.path != (*_CALIBRATION, _PROFILE)]


def _profile_keys(name: Any, problems: list[Problem]) -> list[Override]:
    where = Problem(OVERRIDE, None, ".".join((*_CALIBRATION, _PROFILE)), "")
    draft = _profile(name, Path(), where, problems)
    return [Override((*_CALIBRATION, key), value) for key, value in draft.values.items()] if draft else []


def closest(word: str, known: Iterable[str]) -> str:
    """ "perhaps ... is meant", or "" where nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"perhaps {near[0]} is meant" if near else ""


def _locate(
    name: str, base: Path, asker: Problem, folder: Path = FOLDER, kind: str = "recipe"
) -> tuple[Path | None, Problem | None]:
    """A name means a shipped file; anything with a slash or ends in .yaml is a path, relative to `base`."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        path = base / Path(name).expanduser()
        what = f"there is no {kind} file {path}"
        remedy = "check the path"
    else:
        path = folder / f"{name}.yaml"
        names = [p.stem for p in shipped(folder)]
        what = f"there is no {kind} {name!r}"
        remedy = closest(name, names) or f"the names are {', '.join(names)}; a path ends in .yaml"
    with suppress(OSError, ValueError):  # a name that no file can have
        if path.is_file():
            return path, None
    return None, Problem(asker.file, asker.line, asker.key, what, remedy)


def _read_all(path: Path, above: tuple[Path, ...], problems: list[Problem]) -> list[Draft]:
    """The drafts of a file: one, or a set's; problems are added to the list."""
    draft = _read_one(path, problems)
    if draft is None:
        return []
    above = (*above, path.resolve())
    if "recipes" in draft.values:
        return _members(draft, path, above, problems)
    extended = _extended(draft, path, above, problems)
    return [extended] if extended else []


def _members(draft: Draft, path: Path, above: tuple[Path, ...], problems: list[Problem]) -> list[Draft]:
    for key in draft.values:
        if key not in ("name", "title", "recipes", _ROUNDING):
            what = f"a set takes only name, title, recipes and {_ROUNDING}"
            problems.append(Problem(*draft.origin((key,)), what, "put it into the recipes"))
    members = draft.values["recipes"]
    if not isinstance(members, list) or not members or not all(isinstance(m, str) for m in members):
        problems.append(Problem(*draft.origin(("recipes",)), "is not a list of names", "write recipes: [fp8, awq]"))
        return []
    found: list[Draft] = []
    for index, member in enumerate(members):
        where = Problem(*draft.origin(("recipes", str(index))), "")
        target = _follow(member, path, above, where, problems)
        found += _read_all(target, above, problems) if target else []
    for member in found if _ROUNDING in draft.values else ():
        member.values[_ROUNDING] = draft.values[_ROUNDING]
        member.places[_ROUNDING,] = draft.places[_ROUNDING,]
    return found


def _extended(draft: Draft, path: Path, above: tuple[Path, ...], problems: list[Problem]) -> Draft | None:
    """The draft on top of what it extends, or None where that cannot be read."""
    _fill_in_profile(draft, path.parent, problems)
    if "extends" not in draft.values:
        return draft
    if "name" not in draft.values:
        # With an inherited name the result would look like the recipe it extends.
        problems.append(Problem(draft.file, None, "name", "is missing", "give the recipe a name of its own"))
    parent = draft.values.pop("extends")
    where = Problem(*draft.origin(("extends",)), "")
    if not isinstance(parent, str):
        problems.append(Problem(where.file, where.line, where.key, "is not one name or path", "name one recipe"))
        return None
    target = _follow(parent, path, above, where, problems)
    base = _read_one(target, problems) if target else None
    if base is None or target is None:
        return None
    if "recipes" in base.values:
        problems.append(Problem(where.file, where.line, where.key, f"{parent} is a set", "extend one of its recipes"))
        return None
    base = _extended(base, target, (*above, target.resolve()), problems)
    if base is None:
        return None
    return Draft(draft.file, _merged(base.values, draft.values), base.places | draft.places)


def _fill_in_profile(draft: Draft, base: Path, problems: list[Problem]) -> None:
    """Merge `calibration: {profile: name}` above what the file extends and below the keys written beside it."""
    written = draft.values.get(_CALIBRATION[0])
    if not isinstance(written, dict) or _PROFILE not in written:
        return
    where = Problem(*draft.origin((*_CALIBRATION, _PROFILE)), "")
    profile = _profile(written.pop(_PROFILE), base, where, problems)
    if profile:
        draft.values[_CALIBRATION[0]] = _merged(profile.values, written)
        draft.places = {(*_CALIBRATION, *key): place for key, place in profile.places.items()} | draft.places


def _profile(name: Any, base: Path, where: Problem, problems: list[Problem]) -> Draft | None:
    if not isinstance(name, str):
        problems.append(Problem(where.file, where.line, where.key, "is not one name or path", "name one profile"))
        return None
    path, problem = _locate(name, base, where, PROFILES, "calibration profile")
    if path is None:
        problems += [problem] if problem else []
        return None
    return _read_one(path, problems)


def _follow(name: str, path: Path, above: tuple[Path, ...], where: Problem, problems: list[Problem]) -> Path | None:
    target, problem = _locate(name, path.parent, where)
    if problem:
        problems.append(problem)
    if target and target.resolve() in above:
        chain = " -> ".join(p.name for p in (*above[above.index(target.resolve()) :], target))
        problems.append(Problem(where.file, where.line, where.key, f"is circular ({chain})", "break it"))
        return None
    return target


def _read_one(path: Path, problems: list[Problem]) -> Draft | None:
    """One file's own values with the line of every key."""
    shown = _shown(path)
    loader = None
    try:
        loader = loader_of(path.read_text(encoding="utf-8", errors="replace"))
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            problems.append(Problem(shown, None, "", "is not a list of `key: value` lines", "see recipes/fp8.yaml"))
            return None
        draft = Draft(shown, {})
        repeated = _places(node, (), shown, draft.places)
        draft.values = loader.construct_document(node)
    except yaml.YAMLError as error:
        line, what = line_and_problem(error)
        problems.append(Problem(shown, line, "", f"is not valid YAML: {what}", "correct it"))
        return None
    except OSError as error:
        problems.append(Problem(shown, None, "", f"cannot be read: {error.strerror}", "check its permissions"))
        return None
    finally:
        if loader is not None:
            loader.dispose()
    problems += repeated
    return draft


def _places(node: yaml.Node, path: KeyPath, file: str, places: dict[KeyPath, tuple[str, int | None]]) -> list[Problem]:
    """Record the line of every key and list item; returns keys that are given twice."""
    repeated: list[Problem] = []
    if isinstance(node, yaml.MappingNode):
        children = [(str(key.value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(str(index), value, value) for index, value in enumerate(node.value)]
    else:
        return repeated
    for name, mark, value in children:
        here = (*path, name)
        line = mark.start_mark.line + 1
        if here in places:
            repeated.append(Problem(file, line, ".".join(here), "is written twice", "keep one"))
        places[here] = (file, line)
        repeated += _places(value, here, file, places)
    return repeated


def _shown(path: Path) -> str:
    """As short as it stays right: relative to the current folder where it lies below."""
    resolved = path.resolve()
    return str(resolved.relative_to(Path.cwd())) if resolved.is_relative_to(Path.cwd()) else str(path)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` wins; mappings are merged key by key, lists are replaced; a limit of the budget replaces all others."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if key == _BUDGET and isinstance(below, dict) and isinstance(value, dict) and _LIMITS & value.keys():
            others = _LIMITS if "fits" in value else {*_LIMITS, "context"}
            below = {name: kept for name, kept in below.items() if name not in others}
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
