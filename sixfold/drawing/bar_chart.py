"""A horizontal bar chart as SVG.

One file without scripts, fonts or links, as sixfold/drawing/heat_map.py draws them; colors follow the reader's setting
of light or dark, and each bar has a tooltip.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_MARGIN, _TOP, _BOTTOM = 20, 62, 18
_PITCH, _THICK = 24, 14
_LONGEST = 420
_CHARACTER = 6.4
"""Width of a character of 11 pixels, about."""


@dataclass(frozen=True)
class Bar:
    """label: before the bar. value: 0 or more. shown: after the bar. said: its tooltip.
    marked: in another color (one to be looked at)."""

    label: str
    value: float
    shown: str
    said: str
    marked: bool = False


def bar_chart(title: str, note: str, bars: Sequence[Bar]) -> str:
    """The SVG's text. note: one line on how to read it. The largest value fills the width."""
    left = _MARGIN + round(_CHARACTER * max((len(bar.label) for bar in bars), default=0)) + 10
    right = round(_CHARACTER * max((len(bar.shown) for bar in bars), default=0)) + 10 + _MARGIN
    written = 2 * _MARGIN + round(_CHARACTER * max(len(note), len(title) * 1.4))
    width, height = max(left + _LONGEST + right, written), _TOP + _PITCH * len(bars) + _BOTTOM
    longest = max((bar.value for bar in bars), default=0.0) or 1.0
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="sans-serif" font-size="11">',
        f"<title>{escape(title)}</title>",
        f"<style>{_style()}</style>",
        '<rect class="paper" width="100%" height="100%"/>',
        f'<text x="{_MARGIN}" y="24" font-size="15">{escape(title)}</text>',
        f'<text class="quiet" x="{_MARGIN}" y="44">{escape(note)}</text>',
    ]
    for number, bar in enumerate(bars):
        lines += _bar(bar, left, _TOP + _PITCH * number, _LONGEST * bar.value / longest)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _bar(bar: Bar, left: int, top: int, length: float) -> list[str]:
    base = top + (_PITCH + 8) // 2
    kind = "bar marked" if bar.marked else "bar"
    place = f'x="{left}" y="{top + (_PITCH - _THICK) // 2}" width="{max(length, 1):.1f}" height="{_THICK}"'
    return [
        f'<text x="{left - 8}" y="{base}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect class="{kind}" {place} rx="2"><title>{escape(bar.said)}</title></rect>',
        f'<text class="quiet" x="{left + max(length, 1) + 8:.1f}" y="{base}">{escape(bar.shown)}</text>',
    ]


def _style() -> str:
    light = _theme(paper="#ffffff", ink="#1d232a", quiet="#5b6570", bar="#60a0cd", marked="#d2500f")
    dark = _theme(paper="#14181d", ink="#e8ecf0", quiet="#9aa5b1", bar="#3e80ac", marked="#ff9a4d")
    return f"{light} @media (prefers-color-scheme: dark) {{ {dark} }}"


def _theme(*, paper: str, ink: str, quiet: str, bar: str, marked: str) -> str:
    return (
        f".paper {{ fill: {paper} }} text {{ fill: {ink} }} .quiet {{ fill: {quiet} }}"
        f" .bar {{ fill: {bar} }} .marked {{ fill: {marked} }}"
    )
