"""How PyTorch's allocator is set, which is for the user to say first."""

import os
import sys

import pytest

from sixfold.runner.available_memory import use_memory_whole

NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@pytest.mark.parametrize("stated", [None, *NAMES])
def test_what_the_user_says_of_the_allocator_stands(stated: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in NAMES:
        monkeypatch.setenv(name, "backend:native")  # so that what is set here goes with the test
        monkeypatch.delenv(name)
    if stated is not None:
        monkeypatch.setenv(stated, "backend:native")
    use_memory_whole()
    found = {name: os.environ[name] for name in NAMES if name in os.environ}
    assert found == ({NAMES[0]: "expandable_segments:True"} if stated is None else {stated: "backend:native"})
