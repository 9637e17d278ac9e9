"""Charts say what they were given: every mark stands where its value is by the axes, and names cover nothing."""

import random
import re
import zlib
from itertools import combinations
from math import hypot
from xml.etree import ElementTree

import pytest

from cards.charts.expert_spans import Group, expert_spans, quantile
from cards.charts.kl_by_domain import DomainRow, kl_by_domain
from cards.charts.layer_errors import LayerLine, layer_errors
from cards.charts.marks import marker, rules
from cards.charts.memory_and_context import Machine, MemoryLine, memory_and_context
from cards.charts.png import png
from cards.charts.scales import Linear, Log, log_around, spread
from cards.charts.size_and_kl import Measured, size_and_kl
from sixfold.drawing.svg_document import DARK, LIGHT, Theme, document, style
from tests.cards.drawn import SVG, labels, linear, logarithmic, marks, root_of, ticks

GB = 10**9
VARIANTS = [
    ("BF16", 0, 278.3, 0.0), ("FP8", 1, 140.2, 0.0121), ("NVFP4", 2, 72.0, 0.061), ("NVFP4-GB10", 2, 72.4, 0.082),
    ("AWQ", 3, 74.1, 0.055), ("Q8_0", 4, 138.0, 0.0031), ("Q6_K", 4, 106.9, 0.0061), ("Q4_K_M", 4, 84.2, 0.031),
    ("IQ4_XS", 4, 69.3, 0.0312), ("Q3_K_M", 4, 62.0, 0.113),
]  # fmt: skip
MEASURED = [Measured(label, n, int(size * GB), kl, label, sound=label != "AWQ") for label, n, size, kl in VARIANTS]
CONTEXTS = (4096, 8192, 16384, 32768, 65536, 131072, 204800)
LINES = [
    MemoryLine(label, n, tuple((c, int(size * GB) + 2 * GB + 253_952 * c) for c in CONTEXTS))
    for label, n, size, _ in VARIANTS
]
MACHINES = [
    Machine("H100 80 GB", 78 * GB),
    Machine("A < B & C", 138 * GB),
    Machine("tiny", 8 * GB),
    Machine("huge", 900 * GB),
]
ROWS = [
    DomainRow(label, {d: kl * (1 + n) / 2 for n, d in enumerate(("code", "maths", "tools"))})
    for label, _, _, kl in VARIANTS
]
ERRORS = [LayerLine(label, n, tuple(kl * (1 + layer) / 9 for layer in range(9))) for label, n, _, kl in VARIANTS]
WIDTHS = (760, 350)
CHARTS = {
    "size": lambda width: size_and_kl("m <1>", MEASURED, width=width),
    "domains": lambda width: kl_by_domain("m <1>", ROWS, width=width),
    "layers": lambda width: layer_errors("m <1>", ERRORS, width=width),
    "memory": lambda width: memory_and_context("m <1>", "vLLM", LINES, MACHINES, width=width),
}


def near(value: float) -> object:
    """A tenth of a pixel is what places are rounded to."""
    return pytest.approx(value, rel=0.01)


@pytest.mark.parametrize("width", WIDTHS)
def test_size_and_kl_stand_where_the_axes_say(width: int) -> None:
    svg = size_and_kl("m", MEASURED, width=width)
    xs, ys = ticks(svg, "x"), ticks(svg, "y")
    found = {m.said: (logarithmic(xs, m.x), logarithmic(ys, m.y)) for m in marks(svg)}
    assert found == {label: (near(size), near(kl)) for label, _, size, kl in VARIANTS}


@pytest.mark.parametrize("width", WIDTHS)
def test_what_failed_has_a_ring_and_nothing_else_has(width: int) -> None:
    svg = size_and_kl("m", MEASURED, width=width)
    rings = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root_of(svg).iter(f"{SVG}circle")]
    assert rings == [(m.x, m.y) for m in marks(svg) if m.said == "AWQ"]


def test_the_line_joins_what_nothing_else_beats() -> None:
    svg = size_and_kl("m", MEASURED)
    best = [
        label
        for label, _, size, kl in VARIANTS
        if not any(s <= size and k <= kl and (s, k) != (size, kl) for _, _, s, k in VARIANTS)
    ]
    line = next(p.attrib["d"] for p in root_of(svg).iter(f"{SVG}path") if p.attrib["class"] == "lead")
    corners = re.findall(r"([\d.]+) ([\d.]+)", line)
    at = {(m.x, m.y): m.said for m in marks(svg)}
    assert {at[float(x), float(y)] for x, y in corners} == set(best)


@pytest.mark.parametrize("width", WIDTHS)
def test_domains_stand_where_the_axis_says(width: int) -> None:
    svg = kl_by_domain("m", ROWS, width=width)
    xs = ticks(svg, "x")
    found = {m.said.split(":")[0]: logarithmic(xs, m.x) for m in marks(svg) if ":" in m.said}
    assert found == {f"{row.label}, {domain}": near(kl) for row in ROWS for domain, kl in row.kl.items()}


@pytest.mark.parametrize("width", WIDTHS)
def test_errors_of_layers_stand_where_the_axes_say(width: int) -> None:
    svg = layer_errors("m", ERRORS, width=width)
    xs, ys = ticks(svg, "x"), ticks(svg, "y")
    found = {m.said.split(":")[0]: (round(linear(xs, m.x), 1), logarithmic(ys, m.y)) for m in marks(svg)}
    expected = {f"{x.label}, layer {n}": (n, near(e)) for x in ERRORS for n, e in enumerate(x.errors)}
    assert found == expected


@pytest.mark.parametrize("width", WIDTHS)
def test_memory_stands_where_the_axes_say(width: int) -> None:
    svg = memory_and_context("m", "vLLM", LINES, MACHINES, width=width)
    xs, ys = ticks(svg, "x"), ticks(svg, "y")
    found = {}
    for mark in marks(svg):
        label, context = re.fullmatch(r"(.*), ([\d,]+) tokens: .*", mark.said).groups()  # type: ignore[union-attr]
        assert logarithmic(xs, mark.x) == near(int(context.replace(",", "")))
        found[label, int(context.replace(",", ""))] = linear(ys, mark.y)
    expected = {(x.label, c): pytest.approx(n / GB, abs=0.8) for x in LINES for c, n in x.points}
    assert found == expected


@pytest.mark.parametrize("width", WIDTHS)
def test_machines_are_lines_at_what_an_engine_may_take_of_them(width: int) -> None:
    """Those that are too small for anything, or much larger than everything, are no lines."""
    svg = memory_and_context("m", "vLLM", LINES, MACHINES, width=width)
    ys = ticks(svg, "y")
    found = {}
    for group in root_of(svg).iter(f"{SVG}g"):
        title, path = str(group.findtext(f"{SVG}title")), group.find(f"{SVG}path")
        assert path is not None
        found[title] = linear(ys, float(path.attrib["d"].split()[-1]))
    assert found == {f"{m.title}: {m.usable:,} bytes": pytest.approx(m.usable / GB, abs=0.8) for m in MACHINES[:2]}


def test_machines_of_one_size_share_a_line_and_as_many_names_as_there_is_room_for() -> None:
    alike = [Machine(f"Quite a long name, number {n}", 78 * GB + n) for n in range(3)]
    wide, narrow = (memory_and_context("m", "vLLM", LINES, alike, width=width) for width in WIDTHS)
    assert [label.text for label in labels(wide, "halo")] == ["; ".join(machine.title for machine in alike)]
    assert [label.text for label in labels(narrow, "halo")] == ["Quite a long name, number 0 and 2 more"]


def test_where_every_machine_holds_all_the_chart_says_so() -> None:
    svg = memory_and_context("m", "vLLM", LINES[-1:], [Machine("small", 500 * GB), Machine("large", 900 * GB)])
    assert "small, lets vLLM use 500 GB" in " ".join(str(t.text) for t in root_of(svg).iter(f"{SVG}text"))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", CHARTS)
def test_everything_is_within_and_whole_by_itself(name: str, width: int) -> None:
    svg = CHARTS[name](width)
    root = root_of(svg)
    assert root.findtext(f"{SVG}title", "").startswith("m <1>")
    assert len(root.findtext(f"{SVG}desc", "")) > 40
    assert not re.search(r"href|script|url\(|@import|@font", svg)
    assert float(root.attrib["width"]) == width
    height = float(root.attrib["height"])
    for css in ("", "label", "quiet", "halo", "quiet tick-x", "quiet tick-y"):
        for label in labels(svg, css):
            turned = label.text in ("relative error",) or label.text.startswith(("mean KL per", "memory, "))
            assert turned or (label.left >= 0 and label.right <= width), label
            assert label.bottom <= height
    for mark in marks(svg):
        assert 0 < mark.x < width
        assert 0 < mark.y < height


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", CHARTS)
def test_names_do_not_cover_one_another(name: str, width: int) -> None:
    svg = CHARTS[name](width)
    for css in ("", "label", "quiet tick-x", "quiet tick-y"):
        for one, other in combinations(labels(svg, css), 2):
            assert not one.covers(other), (one, other)


def test_names_of_crowded_points_stay_apart_and_by_their_points() -> None:
    """Seeded clouds like those that variants make: sizes within a decade, KL falling with size."""
    for seed in range(40):
        rng = random.Random(seed)
        sizes = [rng.uniform(1, 5) for _ in range(10)]
        cloud = [
            Measured(f"VARIANT_{n}", n, int(s * GB), 0.3 * s ** -rng.uniform(2, 4), f"VARIANT_{n}")
            for n, s in enumerate(sizes)
        ]
        svg = size_and_kl("m", cloud)
        names = labels(svg, "label")
        covered = [(a.text, b.text) for a, b in combinations(names, 2) if a.covers(b)]
        assert not covered, (seed, covered)
        at = {m.said: m for m in marks(svg)}
        for name in names:
            own = at[name.text]
            dx = max(name.left - own.x, 0, own.x - name.right)
            dy = max(name.top - own.y, 0, own.y - name.bottom)
            assert hypot(dx, dy) < 80


@pytest.mark.parametrize("name", CHARTS)
def test_the_same_numbers_give_the_same_bytes(name: str) -> None:
    assert CHARTS[name](760) == CHARTS[name](760)


def test_series_differ_in_shape_and_lines_of_one_color_in_dashes() -> None:
    shapes = {m.css: m for m in marks(size_and_kl("m", MEASURED))}
    assert set(shapes) == {"h0", "h1", "h2", "h3", "h4"}
    curves = [p for p in root_of(layer_errors("m", ERRORS)).iter(f"{SVG}path") if p.attrib["class"][0] == "l"]
    looks = [(p.attrib["class"], p.attrib.get("stroke-dasharray")) for p in curves if p.attrib["class"] != "lead"]
    assert len(looks) == len(set(looks)) == len(ERRORS)


def test_names_at_line_ends_move_apart_and_keep_their_order() -> None:
    placed = spread([10, 11, 12, 100, 50], 15, 0, 200)
    assert sorted(placed) == [placed[0], placed[1], placed[2], placed[4], placed[3]]
    assert min(b - a for a, b in zip(sorted(placed), sorted(placed)[1:], strict=False)) >= 15 - 1e-9
    assert (placed[4], placed[3]) == (50, 100)
    assert placed[1] == pytest.approx(15)  # 10, 11 and 12 would move apart about 11, but the first cannot leave


def test_ticks_are_round_and_within() -> None:
    assert Linear(0, 347, 0, 100).ticks(7) == (0, 50, 100, 150, 200, 250, 300)
    assert Log(0.002, 0.2, 0, 100).ticks(7) == (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
    assert Log(0.001, 100, 0, 100).ticks(7) == (0.001, 0.01, 0.1, 1, 10, 100)
    assert log_around([0.0, 0.3], 0, 100).ticks(9)[0] == 0
    with pytest.raises(ValueError, match="zero"):
        Log(1, 10, 0, 100).at(0)


# Colors --------------------------------------------------------------------------------------------------------------

_VISIONS = {  # Machado, Oliveira and Fernandes 2009, severity 1, for linear RGB
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
    "full": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
}


def _linear_rgb(color: str) -> list[float]:
    parts = [int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]


def _luminance(color: str) -> float:
    r, g, b = _linear_rgb(color)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def _lab(rgb: list[float]) -> tuple[float, float, float]:
    """CIE L*a*b* of linear RGB, D65."""
    r, g, b = (min(max(c, 0), 1) for c in rgb)
    rows = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    x, y, z = (kr * r + kg * g + kb * b for kr, kg, kb in rows)
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x / 0.9505, y, z / 1.089))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_series_stand_out_from_the_paper(theme: Theme) -> None:
    """WCAG 2.2: 4.5 for text, 3 for what is drawn."""
    for color, least in [(theme.ink, 7), (theme.quiet, 4.5), *((hue, 4.5) for hue in theme.hues), (theme.edge, 3)]:
        lighter, darker = sorted((_luminance(color), _luminance(theme.paper)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= least, color


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("vision", _VISIONS)
def test_series_are_told_apart_by_the_color_blind(theme: Theme, vision: str) -> None:
    matrix = _VISIONS[vision]
    seen = [
        _lab([sum(m * c for m, c in zip(row, _linear_rgb(hue), strict=True)) for row in matrix]) for hue in theme.hues
    ]
    nearest = min(hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]) for a, b in combinations(seen, 2))
    assert nearest > 20


def test_series_of_one_shape_differ_in_color() -> None:
    """The GGUF files of a model: one exporter, five colors."""
    series = [4 + 6 * n for n in range(5)]
    drawn = [ElementTree.fromstring(marker(0, 0, number, "")) for number in series]
    assert len({path.attrib["d"] for path in drawn}) == 1
    assert len({path.attrib["class"] for path in drawn}) == 5


def test_a_dark_picture_has_the_colors_of_a_dark_page() -> None:
    """Paper fills a picture's corner: its first pixel, which no filter of PNG changes, behind that filter's byte."""
    svg = document(8, 8, "t", style(rules), [])
    for dark, theme in ((False, LIGHT), (True, DARK)):
        data = png(svg, dark=dark)
        start = data.index(b"IDAT")
        pixels = zlib.decompressobj().decompress(data[start + 4 :])
        assert pixels[1:4].hex() == theme.paper[1:]


def test_spans_of_experts_reach_from_the_least_to_the_most() -> None:
    """Two layers of five experts in two groups; the pruned ones of layer 7 are below those that stay."""
    groups = [Group("stay", 0, ((1.0, 2.0, 4.0), (1.0,))), Group("pruned", 1, ((0.0, 0.5), ()))]
    root = ElementTree.fromstring(expert_spans("m", "Saliency", "n.", "to the mean", [7, 8], groups))
    said = [title.text for title in root.iter(f"{SVG}title")]
    assert "stay of layer 7: 1 to 4, median 2" in said
    assert "pruned of layer 7: 0 to 0.5, median 0" in said
    assert len([text for text in said if text and text.startswith("pruned of")]) == 1
    assert quantile(range(101), 0.9) == 90
