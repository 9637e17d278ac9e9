import json
from pathlib import Path

import pytest

from exporters.export.planning import plan_of
from sixfold.errors import SixfoldError, UsageError
from sixfold.model.source import Source, open_source
from tests.exporters.exported import DEMO, Artifact, planned, recipe, run
from tests.exporters.library_oracle import model_free, same_bits, written_config
from tests.families import make_family

pytestmark = pytest.mark.arithmetic

RECIPE = recipe("mxfp4", "MXFP4A16")
NOT_EXPERTS = ["lm_head", "re:.*embed_tokens", r"re:.*\.gate$", "re:.*self_attn"]


@pytest.fixture(scope="module")
def demo() -> Source:
    return open_source(DEMO)


@pytest.fixture(scope="module")
def ours(demo: Source, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return run(demo, RECIPE, tmp_path_factory.mktemp("ours"))


def test_the_trained_model_equals_model_free_ptq_tensor_for_tensor(ours: Artifact, tmp_path: Path) -> None:
    theirs = model_free(DEMO, tmp_path / "theirs", "MXFP4A16", NOT_EXPERTS)
    mine = ours.tensors
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not same_bits(mine[name], theirs[name])] == []
    (group,) = written_config(tmp_path / "theirs")["config_groups"].values()
    assert ours.config["quantization_config"]["config_groups"]["MXFP4A16"] == group


def test_plan_and_file_agree(ours: Artifact, demo: Source) -> None:
    plan, tensors = planned(demo, RECIPE), ours.tensors
    assert {t.name for t in plan.tensors} == set(tensors)
    assert all(t.nbytes == tensors[t.name].nbytes and t.shape == tuple(tensors[t.name].shape) for t in plan.tensors)
    assert all((ours.folder / file.name).stat().st_size == file.nbytes for file in plan.files)
    assert plan.notes[0] == "in BF16: all but the experts"


def test_experts_alone_are_quantized_and_all_else_is_ignored_by_name(ours: Artifact, demo: Source) -> None:
    packed = {name.removesuffix(".weight_packed") for name in ours.tensors if name.endswith(".weight_packed")}
    assert packed == {linear.name for linear in demo.architecture.linears if linear.expert is not None}
    ignored = json.loads((ours.folder / "config.json").read_text())["quantization_config"]["ignore"]
    assert "model.layers.0.self_attn.q_proj" in ignored


def test_a_model_without_experts_and_another_scheme_are_refused(demo: Source, tmp_path: Path) -> None:
    with pytest.raises(SixfoldError, match="is for experts, and dense has none; export the nvfp4 or the awq variant"):
        planned(open_source(make_family("llama", tmp_path / "dense")), RECIPE)
    with pytest.raises(UsageError, match=r"does not make MXFP4; set `scheme` to MXFP4A16"):
        planned(demo, recipe("mxfp4", "MXFP4"))


def test_sizes_that_32_does_not_divide_stay_in_bf16(tmp_path: Path) -> None:
    odd = open_source(make_family("mixtral", tmp_path / "odd", intermediate_size=336))
    with pytest.raises(SixfoldError, match=r"would quantize nothing of odd: .*32 does not divide its input channels"):
        plan_of(odd, RECIPE, None)
