"""What the engine tests share."""

from pathlib import Path

import pytest

from tests.engines.llama_programs.llama_cpp_tools import Unavailable, tools


@pytest.fixture(scope="session")
def llama_tools() -> Path:
    """The folder of llama.cpp's own programs; where they cannot be built here, the reason is the skip's."""
    try:
        return tools()
    except Unavailable as reason:
        pytest.skip(str(reason))
