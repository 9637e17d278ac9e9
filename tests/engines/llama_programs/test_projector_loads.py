"""llama.cpp's own server takes our projectors beside the language models that they belong to."""

import socket
import subprocess
import time
from pathlib import Path

import pytest

from sixfold.model.source import open_source
from tests.exporters.ggml.gguf_tools import export, recipe
from tests.seeing_families import SEEING, make_seeing

pytestmark = pytest.mark.engines


@pytest.mark.parametrize("name", SEEING)
def test_a_projector_is_loaded(name: str, llama_tools: Path, tmp_path: Path) -> None:
    plan, model = export(open_source(make_seeing(name, tmp_path / "eyes")), recipe("BF16"), tmp_path)
    (sees,) = (model.with_name(file.name) for file in plan.files if file.shared)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "-c", "256", "-t", "1", "--no-warmup"]
    log = tmp_path / "log"
    with log.open("wb") as written:
        command = [str(llama_tools / "llama-server"), "-m", str(model), "--mmproj", str(sees), *options]
        server = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while "loaded multimodal model" not in log.read_text(errors="replace"):
            assert server.poll() is None, log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
            time.sleep(0.1)
    finally:
        server.kill()
        server.wait()
