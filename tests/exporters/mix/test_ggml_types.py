"""What a mix may give a matrix, by the length of its rows."""

import pytest

from exporters.mix.ggml_types import TYPES, fitting


@pytest.mark.parametrize(
    ("types", "columns", "expected"),
    [
        (TYPES, 1536, TYPES),
        (TYPES, 576, ("Q4_0", "IQ4_NL", "Q5_0", "Q5_1", "Q8_0")),
        (("Q4_K", "Q6_K"), 576, ("Q5_0", "Q8_0")),
        (("Q5_0", "Q6_K"), 512, ("Q5_0", "Q6_K")),
        (TYPES, 100, ("F16",)),
    ],
)
def test_rows_that_256_does_not_divide_get_what_llama_cpp_puts_in_its_place(
    types: tuple[str, ...], columns: int, expected: tuple[str, ...]
) -> None:
    assert fitting(types, columns) == expected
