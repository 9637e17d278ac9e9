"""A model run layer by layer is the model: bit for bit what transformers computes with all weights in memory."""

from pathlib import Path

import pytest
import torch

from sixfold.errors import SixfoldError
from sixfold.model.layer_calls import record_calls
from sixfold.model.meta_model import auto_class, transformers_config
from sixfold.model.source import open_source
from sixfold.runner.layer_runner import LayerRunner, batches_of
from sixfold.runner.whole_model import load_model
from tests import every_family
from tests.families import FAMILIES, make_family

pytestmark = pytest.mark.arithmetic

DEMO = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m"
CPU = torch.device("cpu")


def layer_by_layer(runner: LayerRunner, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        with runner.outside():
            hidden = runner.start(ids)
        for number, _ in runner.each_layer():
            hidden = runner.run(number, ids, hidden)
        with runner.outside():
            logits: torch.Tensor = runner.finish(ids, hidden).logits
    return logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["demo", *FAMILIES])
def test_the_logits_are_those_of_the_whole_model(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    source = open_source(DEMO if family == "demo" else make_family(family, tmp_path))
    ids = torch.randint(0, source.checkpoint.config["vocab_size"], (3, 40), generator=torch.Generator().manual_seed(0))
    whole = load_model(source, dtype=dtype, device=CPU)
    with torch.inference_mode():
        want = whole(input_ids=ids, use_cache=False).logits
    assert torch.equal(layer_by_layer(LayerRunner(source, dtype=dtype, device=CPU), ids), want)


@pytest.mark.parametrize("family", ["gpt_neox", "llava"])
def test_all_layers_in_place_are_transformers_own_model(family: str, tmp_path: Path) -> None:
    """Of families whose tensors transformers calls otherwise than its modules."""
    source = open_source(every_family.make_family(family, tmp_path))
    auto = auto_class(source.checkpoint, transformers_config(source.checkpoint.config))
    ids, told = torch.arange(30, 50)[None], []
    with torch.no_grad():
        want = auto.from_pretrained(tmp_path, dtype=torch.float32)(input_ids=ids, use_cache=False).logits
        with LayerRunner(source, dtype=torch.float32, device=CPU).whole(told.append) as model:
            assert torch.equal(model(input_ids=ids, use_cache=False).logits, want)
    assert told == [None, 0, 1, 2, 3]


def test_a_sliding_window_is_seen(tmp_path: Path) -> None:
    """Longer than the window, so that masks differ between layer types."""
    source = open_source(make_family("gemma2", tmp_path, sliding_window=16))
    ids = torch.randint(0, 512, (2, 100), generator=torch.Generator().manual_seed(0))
    whole = load_model(source, dtype=torch.float32, device=CPU)
    with torch.inference_mode():
        want = whole(input_ids=ids, use_cache=False).logits
    assert torch.equal(layer_by_layer(LayerRunner(source, dtype=torch.float32, device=CPU), ids), want)


@pytest.mark.parametrize("ahead", [True, False])
def test_only_the_layer_that_runs_has_weights(ahead: bool) -> None:
    runner = LayerRunner(open_source(DEMO), dtype=torch.float32, device=CPU, ahead=ahead)
    assert all(parameter.is_meta for parameter in runner.model.parameters())
    for number, layer in runner.each_layer():
        assert not any(parameter.is_meta for parameter in layer.parameters())
        others = [other for other in runner.layers if other is not layer]
        assert all(parameter.is_meta for other in others for parameter in other.parameters()), number
    assert all(parameter.is_meta for parameter in runner.model.parameters())


def test_weights_may_come_from_elsewhere() -> None:
    source = open_source(DEMO)
    asked: set[str] = set()

    def zeros(name: str, out: torch.Tensor) -> None:
        asked.add(name)
        out.zero_()

    runner = LayerRunner(source, dtype=torch.float32, device=CPU, read_into=zeros)
    assert not layer_by_layer(runner, torch.zeros(1, 4, dtype=torch.int64)).any()
    assert asked == set(source.checkpoint.tensors)


def test_a_correction_bias_stays_float32() -> None:
    runner = LayerRunner(open_source(DEMO), dtype=torch.bfloat16, device=CPU)
    for _, layer in runner.each_layer():
        assert layer.mlp.e_score_correction_bias.dtype is torch.float32
        assert layer.mlp.experts.down_proj.dtype is torch.bfloat16


class Between(torch.nn.Module):
    """A model that halves hidden states between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> torch.Tensor:
        hidden = torch.ones(*input_ids.shape, 4)
        for layer in self.layers:
            hidden = layer(hidden) / 2
        return hidden


def test_what_happens_between_layers_is_refused() -> None:
    model = Between()
    with pytest.raises(SixfoldError, match="Between computes something between its decoder layers"):
        record_calls(model, list(model.layers), torch.zeros(1, 2, dtype=torch.int64))


@pytest.mark.parametrize("family", ["glm_moe_dsa", "longcat_flash", "deepseek_v4", "gemma3"])
def test_what_layers_hand_on_beside_hidden_states_arrives(family: str, tmp_path: Path) -> None:
    """Chosen tokens, streams of hidden states, two attentions in a layer, a tower beside the decoder."""
    source = open_source(make_family(family, tmp_path))
    ids = torch.randint(0, 512, (3, 40), generator=torch.Generator().manual_seed(0))
    whole = load_model(source, dtype=torch.float32, device=CPU)
    with torch.inference_mode():
        want = whole(input_ids=ids, use_cache=False).logits
    assert torch.equal(layer_by_layer(LayerRunner(source, dtype=torch.float32, device=CPU), ids), want)


@pytest.mark.parametrize("family", ["gemma3n_text", "zaya", "qwen3_5_moe"])
def test_streams_and_shared_states_arrive(family: str, tmp_path: Path) -> None:
    """Keys that later layers share, a router's state, streams before the samples."""
    sharing = {"num_kv_shared_layers": 1} if family == "gemma3n_text" else {}
    source = open_source(every_family.make_family(family, tmp_path, **sharing))
    ids = torch.randint(0, 256, (3, 40), generator=torch.Generator().manual_seed(0))
    whole = load_model(source, dtype=torch.float32, device=CPU)
    with torch.inference_mode():
        want = whole(input_ids=ids, use_cache=False).logits
    assert torch.equal(layer_by_layer(LayerRunner(source, dtype=torch.float32, device=CPU), ids), want)


def test_batches_never_mix_lengths() -> None:
    samples = [torch.full((length,), number) for number, length in enumerate((4, 4, 4, 3, 3, 9))]
    batches = batches_of(samples, tokens=8)
    assert [tuple(batch.shape) for batch in batches] == [(2, 4), (1, 4), (2, 3), (1, 9)]
    assert torch.cat([batch[:, 0] for batch in batches]).tolist() == [0, 1, 2, 3, 4, 5]
