"""A picture as PNG, for where SVG is not shown: on opaque paper, light or dark, the same on every machine."""

import re
from functools import lru_cache

import font_source_sans_pro
from resvg_py import svg_to_bytes

_FAMILY = "Source Sans Pro"


_DARK = re.compile(r"@media \(prefers-color-scheme: dark\) \{(.*)\}(?=\s*</style>)", re.DOTALL)


@lru_cache(64)
def png(svg: str, *, dark: bool = False, scale: float = 2) -> bytes:
    """dark: in the colors that the picture has for a dark page. scale: pixels for one of the SVG's. The font comes with
    the project's dependencies: a machine may have none. Remembered, as charts are written after each step of a run."""
    svg = _DARK.sub(r"\1" if dark else "", svg)
    fonts = [font_source_sans_pro.font_files_ttf["SourceSansPro"]]
    return svg_to_bytes(svg_string=svg, skip_system_fonts=True, font_files=fonts, sans_serif_family=_FAMILY, zoom=scale)
