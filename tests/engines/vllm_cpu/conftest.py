"""What the tests of vLLM share."""

from pathlib import Path

import pytest

from tests.engines.llama_programs.llama_cpp_tools import Unavailable
from tests.engines.vllm_cpu.vllm_environment import vllm_python


@pytest.fixture(scope="session")
def python() -> Path:
    """vLLM's interpreter; where it cannot be installed, the reason is the skip's."""
    try:
        return vllm_python()
    except Unavailable as reason:
        pytest.skip(str(reason))
