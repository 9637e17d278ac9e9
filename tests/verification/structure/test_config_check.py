"""config.json with the numbers that JSON has no word for."""

from verification.structure.config import _completed

INFINITY = {"__float__": "Infinity"}


def test_infinity_as_transformers_writes_it() -> None:
    """A list of limits ends in it in Mamba's families."""
    found = _completed({"model_type": "falcon_h1", "time_step_limit": [0.0, INFINITY], "hidden_size": 64})
    assert found["hidden_size"] == 64
    assert "vocab_size" in found


def test_a_config_that_transformers_refuses() -> None:
    assert _completed({"model_type": "llama", "hidden_size": "wide"}) == {}
    assert _completed({"model_type": "no such model"}) == {}
