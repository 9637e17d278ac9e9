"""plan.json: what is written is read back, and every mistake of an editing hand is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruning.anatomy import Anatomy
from pruning.choosing.plan_file import LayerPlan, PruningPlan, check_plan, plan_text, read_plan
from sixfold.errors import UsageError

ANATOMY = Anatomy(8, 2, 1, 1, (1, 2), {}, (("num_experts",),), False, ())
GROUPED = Anatomy(8, 2, 2, 1, (1, 2), {}, (("num_experts",),), False, ())
PLAN = PruningPlan(
    model="tiny",
    source={"fingerprint": "f" * 64, "revision": ""},
    criterion="reap",
    ratio=0.5,
    budget="layer",
    seed=0,
    statistics={"digest": "d" * 64, "profile": {"samples": 64}},
    layers=(
        LayerPlan(1, 8, (0, 1, 4, 5), (1,), (8.0, 7.5, 1, 2, 6, 5, 4, 3)),
        LayerPlan(2, 8, (2, 3, 6, 7), (), (1, 2, 8, 7, 3, 4, 6, 5)),
    ),
)


def test_a_plan_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(plan_text(PLAN))
    assert read_plan(path) == PLAN
    check_plan(PLAN, ANATOMY, "plan.json")


def test_a_list_is_one_line() -> None:
    assert '      "kept": [0, 1, 4, 5],' in plan_text(PLAN).splitlines()


def test_the_digest_is_of_what_stays() -> None:
    renamed = PruningPlan(**{**vars(PLAN), "criterion": "by hand", "statistics": None})
    assert renamed.digest == PLAN.digest
    other = PruningPlan(**{**vars(PLAN), "layers": (PLAN.layers[0], LayerPlan(2, 8, (2, 3, 6, 5), (), ()))})
    assert other.digest != PLAN.digest


def edited(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    found = json.loads(plan_text(PLAN))
    change(found)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(found))
    return path


def layer(found: dict[str, Any], number: int = 0) -> dict[str, Any]:
    entry: dict[str, Any] = found["layers"][number]
    return entry


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.update(schema=9), "is not a pruning plan of schema 1"),
        (lambda p: p.pop("seed"), "has no seed; its keys are"),
        (lambda p: p.update(color="red"), "has an unknown color"),
        (lambda p: p.update(criterion=7), "has a criterion of 7"),
        (lambda p: p.update(layers=[]), "has no layers"),
        (lambda p: layer(p).pop("kept"), r"entry 1 of layers has no kept"),
        (lambda p: layer(p).update(kept="all"), r"entry 1 of layers has a kept that is not a list of numbers"),
        (lambda p: layer(p).update(kept=[0.5, 1]), r"entry 1 of layers has a kept that is not a list of numbers"),
        (lambda p: layer(p, 1).update(layer="two"), r"entry 2 of layers has a layer that is not an integer"),
        (lambda p: layer(p).update(layer=2), "has layer 2 twice"),
        (lambda p: layer(p).update(layer=0), r"has layer 0, which has no experts here; .* are 1 to 2"),
        (lambda p: p["layers"].pop(), "lacks layer 2"),
        (lambda p: layer(p).update(experts=16), "layer 1 in .* is of 16 experts, and the checkpoint has 8"),
        (lambda p: layer(p).update(kept=[0, 1, 4, 8]), "layer 1 in .* keeps expert 8; experts are numbered 0 to 7"),
        (lambda p: layer(p).update(kept=[0, 1, 4, 4]), "layer 1 in .* keeps expert 4 twice"),
        (lambda p: layer(p).update(kept=[3]), "cannot keep 1 expert: the router chooses 2 of 8"),
        (lambda p: layer(p).update(kept=[0, 1, 2]), r"config.json has one for all \(num_experts\)"),
        (lambda p: [e.update(kept=list(range(8))) for e in p["layers"]], "keeps every expert where it is"),
    ],
)
def test_every_mistake_is_named(change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        check_plan(read_plan(edited(tmp_path, change)), ANATOMY, "plan.json")


def test_groups_keep_as_many_each() -> None:
    uneven = PruningPlan(**{**vars(PLAN), "layers": (PLAN.layers[0], LayerPlan(2, 8, (2, 5, 6, 7), (), ()))})
    with pytest.raises(UsageError, match="does not keep 2 experts of each of the router's 2 groups, group by group"):
        check_plan(uneven, GROUPED, "plan.json")
    check_plan(PLAN, GROUPED, "plan.json")


def test_what_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{\n  "schema": 1,\n')
    with pytest.raises(UsageError, match=r"plan.json is not valid JSON, line \d; correct it"):
        read_plan(tmp_path / "plan.json")
    with pytest.raises(UsageError, match=r"cannot read the plan .*: No such file"):
        read_plan(tmp_path / "missing.json")
