"""What each shipped exporter can be told to make: the values of a recipe's `scheme`.

Written down here, so that recipes can be listed and checked without importing exporters, which takes seconds.
"""

SCHEMES: dict[str, tuple[str, ...]] = {
    "awq": ("W4A16_ASYM",),
    "bf16": ("BF16",),
    "fp8": ("FP8_DYNAMIC", "FP8_BLOCK", "FP8"),
    "gguf": (
        *("Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_NL", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S"),
        *("IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "Q2_K", "BF16", "F16", "F32", "AUTO"),
    ),
    "mixed": ("NVFP4A16", "W4A16_ASYM"),
    "mxfp4": ("MXFP4A16",),
    "nvfp4": ("NVFP4A16", "NVFP4"),
}
"""Exporter -> schemes. One that is not here takes what the tool that it runs knows."""


def schemes_of(exporter: str) -> tuple[str, ...]:
    """() where any scheme may be meant."""
    return SCHEMES.get(exporter, ())
