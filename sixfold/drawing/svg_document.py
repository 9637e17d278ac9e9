"""What every picture of this project shares: colors for light and for dark, and the SVG document around a drawing.

A picture is one SVG without scripts, fonts or links, so that it can be opened alone, be an <img> where a page's own CSS
does not reach, or be inline in a page. Colors follow the reader's setting of light or dark, on paper of their own.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Theme:
    """paper: behind everything. ink: text. quiet: less prominent text. rule: grid lines. edge: around what is to be
    looked at. hues: of series, with a contrast of at least 4.5 to the paper, and told apart by the color-blind."""

    paper: str
    ink: str
    quiet: str
    rule: str
    edge: str
    hues: tuple[str, ...]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1d232a",
    quiet="#5b6570",
    rule="#dfe4e9",
    edge="#d2500f",
    hues=("#033bd3", "#cf4b00", "#00855b", "#b535aa", "#693a16", "#433758"),
)
DARK = Theme(
    paper="#14181d",
    ink="#e8ecf0",
    quiet="#9aa5b1",
    rule="#2b323a",
    edge="#ff9a4d",
    hues=("#428dff", "#ed6930", "#53f18a", "#d670b9", "#ffd328", "#cbe0d4"),
)


def style(rules: Callable[[Theme], Iterable[str]]) -> str:
    """A style sheet: the rules for light, and for dark if the reader's setting is dark."""
    return f"{' '.join(rules(LIGHT))} @media (prefers-color-scheme: dark) {{ {' '.join(rules(DARK))} }}"


def document(
    width: int, height: int, title: str, css: str, body: Sequence[str], *, described: str = "", attributes: str = ""
) -> str:
    """The SVG's text. title, described: text for screen readers. body: elements, drawn in their order."""
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="sans-serif"{attributes}>',
            f"<title>{escape(title)}</title>",
            *([f"<desc>{escape(described)}</desc>"] if described else []),
            f"<style>{css}</style>",
            '<rect class="paper" width="100%" height="100%"/>',
            *body,
            "</svg>\n",
        ]
    )
