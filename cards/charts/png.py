"""A picture as PNG, for where SVG is not shown: in its light colors, on opaque paper, the same on every machine."""

import font_source_sans_pro
from resvg_py import svg_to_bytes

_FAMILY = "Source Sans Pro"


def png(svg: str, *, scale: float = 2) -> bytes:
    """scale: pixels for one of the SVG's. The font comes with the project's dependencies: a machine may have none."""
    fonts = [font_source_sans_pro.font_files_ttf["SourceSansPro"]]
    return svg_to_bytes(svg_string=svg, skip_system_fonts=True, font_files=fonts, sans_serif_family=_FAMILY, zoom=scale)
