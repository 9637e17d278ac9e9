"""What a server says is compared with what was measured; a stand-in says what it is told to."""

import sys
from pathlib import Path

import pytest
import torch

from verification.divergence import engine_answers
from verification.divergence.engine_answers import EngineAnswers, answers_of_engine

TOKEN = 7
WINDOWS = [torch.full((100,), TOKEN)] * 3
LOSSES = torch.full((3 * 99,), 2.0)
SERVER = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
if "--version" in sys.argv:
    sys.exit(print("version: 1 (abc)", file=sys.stderr))
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({{}})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert 32 < len(asked["prompt"]) < 100
        self.answer({answer})
    def answer(self, data):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(data).encode())
    def log_message(self, *_):
        pass
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def listed(**candidates: float) -> str:
    top = [{"id": int(token[1:]), "logprob": value} for token, value in candidates.items()]
    return repr({"completion_probabilities": [{"top_logprobs": top}]})


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIXFOLD_LLAMA_CPP", str(tmp_path))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    return tmp_path / "model.gguf"


def asked(gguf: Path, program: str) -> EngineAnswers:
    server = gguf.parent / "llama-server"
    server.write_text(program)
    server.chmod(0o755)
    found = answers_of_engine(gguf, WINDOWS, LOSSES)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("answer", "positions", "difference"),
    [
        (listed(_5=-0.5, _7=-2.01), 3, 0.01),
        (listed(_5=-0.5, _7=-3.5), 3, 1.5),
        (listed(_5=-0.5, _6=-9.0), 3, 7.0),
        ("{'content': ''}", 0, None),
    ],
    ids=["agrees", "differs", "not among the candidates", "part of a character"],
)
def test_the_difference_is_of_the_token_that_follows(
    answer: str, positions: int, difference: float | None, gguf: Path
) -> None:
    found = asked(gguf, SERVER.format(python=sys.executable, answer=answer))
    assert found == EngineAnswers("llama-server 1 (abc)", positions, difference)
    severities = [finding.severity for finding in found.findings]
    assert severities == (["warning"] if difference is not None and difference > 1 else [])


def test_a_server_that_does_not_answer_is_told_and_is_no_finding(gguf: Path) -> None:
    found = asked(gguf, "#!/bin/sh\nexit 3\n")
    assert (found.difference, found.failed) == (None, "EngineFailed: it ended with exit code 3")
    assert list(found.findings) == []
    assert str(found) == "llama-server was not heard: EngineFailed: it ended with exit code 3"


def test_no_server_is_started_for_a_file_that_takes_long_to_load(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_answers, "LARGEST", 3)
    assert answers_of_engine(gguf, WINDOWS, LOSSES) is None
