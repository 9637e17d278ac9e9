"""llama.cpp's own programs, built once from the sources that the llama-cpp-python sdist carries.

Usage: python -m tests.engines.llama_programs.llama_cpp_tools

pip downloads the sdist and wheels of cmake and ninja; the tools land in .venv-engines/llama.cpp/bin, which takes about
ten minutes of two cores. SIXFOLD_LLAMA_CPP names a folder with tools that are there already, of whatever version.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

SDIST = "llama-cpp-python==0.3.36"
TOOLS = ("llama-completion", "llama-imatrix", "llama-quantize", "llama-perplexity", "llama-server")
FOLDER = Path(__file__).parents[3] / ".venv-engines" / "llama.cpp"
_OFF = (
    "BUILD_TESTS",
    "BUILD_EXAMPLES",
    "BUILD_APP",
    "BUILD_UI",
    "USE_PREBUILT_UI",
    "OPENSSL",
    "CURL",
)


class Unavailable(Exception):
    """The tools cannot be had here; says why."""


def tools() -> Path:
    """The folder that holds TOOLS, built where they are missing. Raises Unavailable."""
    given = os.environ.get("SIXFOLD_LLAMA_CPP")
    folder = Path(given) if given else FOLDER / "bin"
    missing = [tool for tool in TOOLS if not (folder / tool).is_file()]
    if missing and given:
        raise Unavailable(f"SIXFOLD_LLAMA_CPP={given} has no {' and no '.join(missing)}")
    if missing:
        _build()
    return folder


def sources() -> Path:
    """The folder of llama.cpp's sources, kept for its converter. Raises Unavailable."""
    kept = FOLDER.parent / "llama.cpp-sources"
    if not kept.exists():
        work = FOLDER / "build"
        work.mkdir(parents=True, exist_ok=True)
        run("making an environment", sys.executable, "-m", "venv", work / "make")
        shutil.copytree(_sources(work, work / "make" / "bin" / "pip"), kept)
    return kept


def _build() -> None:
    if shutil.which("c++") is None:
        raise Unavailable("there is no C++ compiler (c++) to build llama.cpp's tools with")
    work = FOLDER / "build"  # what a stopped build has compiled is not compiled again
    work.mkdir(parents=True, exist_ok=True)
    run("making an environment", sys.executable, "-m", "venv", work / "make")
    made = work / "make" / "bin"
    run("pip", made / "pip", "install", "--quiet", "cmake", "ninja")
    sources = _sources(work, made / "pip")
    options = [f"-DCMAKE_MAKE_PROGRAM={made / 'ninja'}", "-DBUILD_SHARED_LIBS=OFF", *(f"-DLLAMA_{o}=OFF" for o in _OFF)]
    run("cmake", made / "cmake", "-G", "Ninja", *options, "-S", sources, "-B", work / "out")
    run("the build", made / "cmake", "--build", work / "out", "--target", *TOOLS)
    (FOLDER / "bin").mkdir(exist_ok=True)
    for tool in TOOLS:
        (work / "out" / "bin" / tool).replace(FOLDER / "bin" / tool)
    shutil.rmtree(work)


def _sources(work: Path, pip: Path) -> Path:
    found = list(work.glob("sdist/*/vendor/llama.cpp"))
    if not found:
        package = SDIST.partition("==")[0]
        run("pip", pip, "download", "--quiet", "--no-deps", "--no-binary", package, "--dest", work, SDIST)
        (archive,) = work.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(work / "unpacked", filter="data")
        (work / "unpacked").rename(work / "sdist")
        found = list(work.glob("sdist/*/vendor/llama.cpp"))
    return found[0]


def run(what: str, *command: str | Path) -> None:
    """what: for the message of Unavailable, which is raised where the command fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise Unavailable(f"{what} failed: {said.splitlines()[-1]}")


if __name__ == "__main__":
    sys.stdout.write(f"{tools()}\n")
