"""The next generation of huggingface_hub: without upload_large_folder, and on another HTTP library."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines.llama_programs.llama_cpp_tools import Unavailable, run
from tests.publishing.conftest import TOKEN
from tests.publishing.fake_hub.state import Fault, Hub
from tests.publishing.made import MODEL, make_model, make_variant, published_files

pytestmark = pytest.mark.engines
FOLDER = Path(__file__).parents[2] / ".venv-engines" / "huggingface-hub-2"
VERSION = "2.4.0"


@pytest.fixture(scope="module")
def packages() -> Path:
    """A folder for PYTHONPATH, before the environment's own packages."""
    if not FOLDER.is_dir():
        partial = FOLDER.with_name(f"{FOLDER.name}.partial")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", partial]
        try:
            run("installing huggingface_hub", *pip, f"huggingface_hub=={VERSION}")
        except Unavailable as reason:
            pytest.skip(str(reason))
        partial.rename(FOLDER)
    return FOLDER


@pytest.mark.parametrize("xet", [False, True])
def test_publish_regenerate_and_release(xet: bool, packages: Path, hub: Hub, tmp_path: Path) -> None:
    root = make_model(tmp_path / "out")
    if xet:
        (tmp_path / "store").mkdir()
        hub.xet = f"local://{tmp_path / 'store'}"

    def sixfold(*arguments: str) -> str:
        environment = {
            **os.environ,
            "PYTHONPATH": str(packages),
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "0" if xet else "1",
        }
        words = ["publish", *arguments, "--org", "lab", "--out", str(tmp_path / "out"), "--yes"]
        command = [sys.executable, "-m", "tests.publishing.plain_cards", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return done.stdout

    version = "import huggingface_hub; print(huggingface_hub.__version__)"
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    assert subprocess.check_output([sys.executable, "-c", version], env=environment, text=True).strip() == VERSION
    for method, path in [("POST", "/repos/create"), ("POST", "/commit/"), ("POST", "/tag/"), ("GET", "/tree/")]:
        hub.break_with(Fault(method, path, status=503), Fault(method, path, drop=True))
    sixfold()
    make_variant(root, "awq", weights="again")
    assert "released as v2" in sixfold("awq")
    assert "Public now: 4 repositories" in sixfold("--release")
    repository = hub.repositories[f"lab/{MODEL}-AWQ"]
    assert repository.history[1:] == ["v1: awq", "v2: awq"]
    assert not repository.private
    for name in hub.repositories if not xet else ():
        assert hub.files(name) == published_files(root / name.split("/")[1])
