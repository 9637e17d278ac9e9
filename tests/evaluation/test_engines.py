"""Real engines behind sixfold evaluate: llama.cpp's server and transformers, on the bundled model."""

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from cli import main as cli
from evaluation.engines import transformers_server
from evaluation.engines.choice import engine_for
from evaluation.engines.engine import Demand, Engine
from evaluation.engines.running import started
from evaluation.engines.transformers_server import Model
from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.errors import SixfoldError
from sixfold.model.source import open_source
from sixfold.progress import unseen
from sixfold.runner.whole_model import load_model
from tests.evaluation import fake_engine
from tests.evaluation.stub import serving
from tests.exporters.exported import DEMO, run
from tests.exporters.exported import recipe as folder_recipe
from tests.exporters.ggml.gguf_tools import export, random_statistics, recipe

FEW = ("--problems", "2", "--answers", "2", "--max-tokens", "16")


def evaluate(*arguments: str | Path) -> int:
    return cli.run(["evaluate", *map(str, arguments)])


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, folder = open_source(DEMO), tmp_path_factory.mktemp("gguf")
    return export(source, recipe("Q8_0"), folder / "out", random_statistics(source, folder / "statistics"))[1]


def test_llama_server_twice(gguf: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert evaluate(gguf, *FEW, "--results", tmp_path / name) == 0
    assert (tmp_path / "one/evaluation.json").read_bytes() == (tmp_path / "two/evaluation.json").read_bytes()
    (entry,) = read(tmp_path / "one/evaluation.json")["benchmarks"]
    assert entry["engine"]["name"] == "llama-server"
    assert entry["engine"]["build"]
    assert sum(entry["finish"].values()) == entry["answers"] == 2
    speed = read(tmp_path / "one/speed.json")
    assert speed["measured_by"] == "the engine"
    assert speed["generation"] > 0
    assert speed["prompt"] > 0
    assert speed["peak_memory"] > gguf.stat().st_size
    assert str(tmp_path) not in (tmp_path / "one/speed.json").read_text()


def test_answers_of_llama_server_are_those_of_the_model(gguf: Path, tmp_path: Path) -> None:
    """A raw completion is transformers' greedy one, at least in its beginning: Q8_0 may tip a token."""
    assert evaluate(gguf, "--task", "humaneval-raw", "--problems", "3", "--max-tokens", "8", "--results", tmp_path) == 0
    (records,) = (tmp_path / "evaluation").glob("humaneval-raw-*.jsonl")
    answers = [json.loads(line) for line in records.read_text().splitlines()[1:]]
    same = [answer["text"][:4] == greedy(answer["task_id"])[:4] for answer in answers]
    assert sum(same) >= 2


@cache
def demo() -> Any:
    return load_model(open_source(DEMO), dtype=torch.float32, device=torch.device("cpu"))


def greedy(task_id: str, tokens: int = 8) -> str:
    from evaluation.benchmarks.humaneval import STOPS, problems

    problem = next(p for p in problems() if p.task_id == task_id)
    tokenizer, model = load_tokenizer(DEMO), demo()
    ids = torch.tensor([tokenizer(problem.prompt.rstrip())["input_ids"]])
    start = ids.shape[1]
    with torch.inference_mode():
        for _ in range(tokens):
            ids = torch.cat([ids, model(input_ids=ids).logits[0, -1].argmax().reshape(1, 1)], dim=1)
    text = tokenizer.decode(ids[0, start:], skip_special_tokens=True)
    return text[: min((at for stop in STOPS if (at := text.find(stop)) >= 0), default=None)]


def test_transformers_and_its_seed(tmp_path: Path) -> None:
    """A folder where there is no vLLM. Sampled, the same seed gives the same answer in another process too, and another
    seed another."""
    asked = ("--task", "answers", "--answers", "2", "--max-tokens", "24")
    assert evaluate(DEMO, *asked, "--task", "humaneval-raw", "--problems", "1", "--results", tmp_path / "one") == 0
    with serving(Model(DEMO).answer) as here:
        for name, seed in (("two", "0"), ("three", "1")):
            there = ("--endpoint", here.url, "--results", tmp_path / name)
            assert evaluate(*there, *asked, "--seed", seed) == 0
    one, two, three = (read(tmp_path / name / "evaluation.json")["endings"] for name in ("one", "two", "three"))
    assert one["said"] == two["said"] != three["said"]
    assert one["engine"]["name"] == "transformers"
    (records,) = (tmp_path / "one" / "evaluation").glob("humaneval-raw-*.jsonl")
    answer = json.loads(records.read_text().splitlines()[1])
    assert answer["text"][:4] == greedy("HumanEval/0")[:4]


def test_a_folder_that_transformers_would_read_wrongly_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves the global scales of NVFP4 experts out with a warning, and answers with other weights. What a server
    says at its end is what the user gets to read: test_a_file_that_is_no_model."""
    folder = run(open_source(DEMO), folder_recipe("nvfp4", "NVFP4A16"), tmp_path).folder
    monkeypatch.setattr(sys, "argv", ["transformers_server", str(folder), "0"])
    refusal = (
        r"^error: transformers cannot load .*: it does not read 48 of its tensors, such as model\.layers\.0\.mlp\.exp"
    )
    with pytest.raises(SystemExit, match=refusal):
        transformers_server.main()


def test_a_file_that_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert evaluate(tmp_path / "x.gguf", "--task", "answers", "--answers", "1") == 1
    said = capsys.readouterr().err
    assert "llama-server ended with exit code" in said
    assert said.count("\n") == 1


def test_vllm_serves_folders_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_engine.install(tmp_path, "vllm")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    engine = engine_for(DEMO, Demand(4, 100))
    assert (engine.name, engine.build, engine.model) == ("vLLM", "1 (fake)", DEMO.name)
    assert engine.shown == (
        f"vllm serve {DEMO.name} --host 127.0.0.1 --served-model-name {DEMO.name} --max-num-seqs 4 --seed 0"
        " --no-enable-prefix-caching"
    )
    asked = ("--task", "humaneval", "--problems", "2", "--results", tmp_path / "out")
    assert evaluate(DEMO, *asked) == 0
    assert read(tmp_path / "out/evaluation.json")["benchmarks"][0]["passed"] == 2


def test_an_engine_that_never_comes_up_is_stopped(tmp_path: Path) -> None:
    program = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    engine = Engine("sleeper", "", (sys.executable, "-c", program, str(tmp_path / "pid")), "", "m")
    with pytest.raises(SixfoldError, match=r"sleeper did not come up within 3 s; read .*log, or serve"):
        with started(engine, tmp_path / "log", unseen, longest=3):
            pass
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()
