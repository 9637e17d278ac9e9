"""KL by domain: a row for each variant, a mark for each kind of text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cards.charts import marks
from cards.charts.marks import plain, text
from cards.charts.scales import Log, log_around
from sixfold.drawing.svg_document import document, style

_NOTE = "Each mark is the mean over the held-out text of one domain. Further to the left is better."
_ROW = 32


@dataclass(frozen=True)
class DomainRow:
    """A variant. kl: domain -> mean KL per token in nats."""

    label: str
    kl: Mapping[str, float]


def kl_by_domain(model: str, rows: Sequence[DomainRow], *, width: int = 760) -> str:
    """The SVG's text. rows: at least one, drawn in their order."""
    domains = sorted({domain for row in rows for domain in row.kl})
    title = "Distance from the source by kind of text"
    left = max(marks.width_of(row.label) for row in rows) + 26.0
    right = width - 18.0
    top = marks.heading_height(title, _NOTE, 12, width)
    legend = list(_legend(domains, width, top))
    top += 26 * max(y for _, _, y in legend) + 34
    bottom = top + _ROW * len(rows)
    xs = log_around([kl for row in rows for kl in row.kl.values()], left + 14, right - 6)
    body = [*marks.heading(title, _NOTE, 12, width), *_drawn_legend(domains, legend, top - 26), *_axis(xs, top, bottom)]
    for number, row in enumerate(rows):
        middle = top + _ROW * (number + 0.5)
        body.append(marks.line(left, middle, right, middle, "rule"))
        body.append(text(left - 10, middle + 4.5, row.label, anchor="end"))
        body += _marks(row, domains, xs, middle)
    middle = (left + right) / 2
    body.append(text(middle, bottom + 44, "mean KL per token, nats", anchor="middle", css="quiet", size=marks.SMALL))
    return document(width, int(bottom + 56), f"{model}: {title}", style(marks.rules), body, described=_described(rows))


def _marks(row: DomainRow, domains: Sequence[str], xs: Log, middle: float) -> list[str]:
    """Each domain a little lower than the one before, so that equal values do not cover one another."""
    step = (_ROW - 12) / max(len(domains) - 1, 1)
    return [
        marks.marker(
            xs.at(row.kl[domain]),
            middle + (number - (len(domains) - 1) / 2) * step * 0.8,
            number,
            f"{row.label}, {domain}: {row.kl[domain]:.4g} nats",
            radius=4.2,
        )
        for number, domain in enumerate(domains)
        if domain in row.kl
    ]


def _axis(xs: Log, top: float, bottom: float) -> list[str]:
    drawn = []
    about = int(abs(xs.end - xs.start) / 58)
    for tick in xs.ticks(about):
        x = xs.at(tick)
        drawn.append(marks.line(x, top, x, bottom + 4, "rule"))
        drawn.append(text(x, bottom + 21, plain(tick), anchor="middle", css="quiet tick-x", size=marks.SMALL))
    return drawn


def _legend(domains: Sequence[str], width: int, top: float) -> list[tuple[str, float, int]]:
    """(domain, x, row) of each entry."""
    entries, x, row = [], 18.0, 0
    for domain in domains:
        needed = 18 + marks.width_of(domain) + 14
        if x + needed > width and x > 18:
            x, row = 18.0, row + 1
        entries.append((domain, x, row))
        x += needed
    return entries


def _drawn_legend(domains: Sequence[str], entries: Sequence[tuple[str, float, int]], last: float) -> list[str]:
    drawn = []
    rows = max(row for _, _, row in entries)
    for number, (domain, x, row) in enumerate(entries):
        y = last - 26 * (rows - row)
        drawn.append(marks.marker(x, y, number, domain))
        drawn.append(text(x + 12, y + 4.5, domain))
    return drawn


def _described(rows: Sequence[DomainRow]) -> str:
    said = [f"{r.label}: " + ", ".join(f"{domain} {kl:.4g}" for domain, kl in sorted(r.kl.items())) for r in rows]
    return f"Mean KL per token in nats. {'; '.join(said)}."
