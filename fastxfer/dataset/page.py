"""A report of a mirror run as a page of HTML: figures, drawings and tables; see drawing.py. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from fastxfer.dataset.report import MirrorReport, Sample
from fastxfer.drawing import columns, document, over_time, table, words
from fastxfer.units import format_duration, format_elapsed, format_size

BINS = 120
MOST_SIZES = 18


def page(report: MirrorReport) -> str:
    """Returns the page."""
    return document(f"Mirror of {report.source}", _parts(report))


def _parts(report: MirrorReport) -> Iterator[str]:
    yield f"<h1>{words(report.source)}</h1><p class=soft>to {words(report.dest)}</p>"
    yield _verdict(report)
    yield _figures(report)
    yield from _over_time(report)
    if report.sizes:
        sizes = columns(_sizes(report), colour=4, title="sizes of the objects", shown=lambda n: f"{n:,.0f}")
        yield f"<h2>Sizes of the objects that were fetched, up to</h2>{sizes}"
    if report.hosts:
        rows = [
            (each.host or "(none)", each.objects, format_size(each.bytes), each.failed)
            for each in report.hosts
        ]
        yield "<h2>Hosts</h2>" + table(("host", "#objects", "#bytes", "#failed"), rows)
    if report.slowest:
        yield "<h2>The slowest objects</h2>" + table(("path", "#took", "#size", "#rate"), _slowest(report))
    for name, failures, total in (
        ("Failed", report.failures, report.failed),
        ("Refused", report.refusals, report.refused),
    ):
        named = ((each.path, each.error, each.message) for each in failures)
        yield from _listed(name, ("path", "kind", "why"), named, total)
    name = "To delete" if report.dry_run else "Deleted"
    yield from _listed(name, ("path",), ((path,) for path in report.deletions), report.deleted)


def _verdict(report: MirrorReport) -> str:
    """Returns what came of it, in a sentence."""
    if report.ok:
        said = "A dry run: nothing was fetched or deleted." if report.dry_run else ""
        said = said or "The destination has all that the source lists."
        return f"<p class=said>{said}</p>"
    why = [f"stopped: {report.stopped}"] if report.stopped else []
    why += [] if report.complete else ["the listing is not complete"]
    told = [words(each) for each in why]
    told += [f'<a href="#Failed">{report.failed:,} failed</a>'] if report.failed else []
    told += [f'<a href="#Refused">{report.refused:,} were refused</a>'] if report.refused else []
    again = "" if report.dry_run else " The same command goes on from here."
    return f'<p class="said bad">Not all is there: {"; ".join(told)}.{again}</p>'


def _figures(report: MirrorReport) -> str:
    rate = f"{format_size(report.bytes / report.elapsed)}/s" if report.elapsed > 0 else "-"
    said: dict[str, str | int] = {"listed": report.listed, "new": report.new, "changed": report.changed}
    if report.dry_run:
        said |= {"the same": report.same, "to fetch": format_size(report.bytes)}
        said |= {"without a size": report.unsized, "to delete": report.deleted}
    else:
        said |= {"the same": report.same + report.skipped, "fetched": report.fetched}
        said |= {"bytes": format_size(report.bytes), "took": format_elapsed(report.elapsed), "rate": rate}
        said |= {"requests, small": report.requests, "deleted": report.deleted}
    said |= {"failed": report.failed, "refused": report.refused}
    said |= {"changed here and left": report.left} if report.left else {}
    said |= {"damaged": report.damaged} if report.damaged else {}
    shown = {name: f"{value:,}" if isinstance(value, int) else value for name, value in said.items()}
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in shown.items())
    return f'<dl class="figures">{cells}</dl>'


def _over_time(report: MirrorReport) -> Iterator[str]:
    if not report.fetched or report.elapsed <= 0:
        return
    rates = rates_of(report.samples)
    rates = [(0.0, *rates[0][1:]), *rates, (report.samples[-1].seconds, *rates[-1][1:])] if rates else []
    shown = (
        ("Bytes a second", [(at, rate) for at, rate, _ in rates], 0, True, lambda n: f"{format_size(n)}/s"),
        ("Objects a second", [(at, rate) for at, _, rate in rates], 2, False, lambda n: f"{n:,g}/s"),
    )
    for name, points, colour, binary, told in shown:
        drawn = over_time(
            points,
            colour=colour,
            title=f"{name}, over time",
            shown=told,
            shown_time=_time,
            binary=binary,
        )
        yield f"<h2>{name}</h2>{drawn}"


def _time(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 60 else format_duration(seconds)


def rates_of(samples: Sequence[Sample]) -> list[tuple[float, float, float]]:
    """Returns what came a second: the time, bytes and objects, over BINS equal times or as many as there are
    samples. Between two samples the counts grow evenly.
    """
    if len(samples) < 2 or samples[-1].seconds <= 0:
        return []
    last = samples[-1].seconds
    apart = last / min(BINS, len(samples) - 1)
    edges = [apart * number for number in range(min(BINS, len(samples) - 1) + 1)]
    counts, at = [], 0
    for edge in edges:
        while at < len(samples) - 2 and samples[at + 1].seconds < edge:
            at += 1
        a, b = samples[at], samples[at + 1]
        share = min(1.0, (edge - a.seconds) / (b.seconds - a.seconds)) if b.seconds > a.seconds else 1.0
        counts.append((a.bytes + share * (b.bytes - a.bytes), a.objects + share * (b.objects - a.objects)))
    return [
        (edges[n] + apart / 2, (later[0] - now[0]) / apart, (later[1] - now[1]) / apart)
        for n, (now, later) in enumerate(pairwise(counts))
    ]


def _sizes(report: MirrorReport) -> list[tuple[str, float]]:
    """Returns how many objects there are of each size, without gaps; what is smaller than the first of
    MOST_SIZES is counted with that.
    """
    sizes = dict(report.sizes)
    largest = max(sizes)
    first = max(min(sizes), largest >> 2 * (MOST_SIZES - 1), 1)
    counts = {first << 2 * n: 0 for n in range(MOST_SIZES) if first << 2 * n <= largest}
    for size, count in sizes.items():
        counts[max(size, first)] += count
    return [(format_size(size), float(count)) for size, count in counts.items()]


def _slowest(report: MirrorReport) -> Iterator[tuple[str, str, str, str]]:
    for each in report.slowest:
        rate = f"{format_size(each.bytes / each.seconds)}/s" if each.seconds > 0 else "-"
        yield each.path, format_elapsed(each.seconds), format_size(each.bytes), rate


def _listed(name: str, columns: Sequence[str], rows: Iterable[Sequence[str]], total: int) -> Iterator[str]:
    """Gives a table of what is named of `total`, and how many more there are."""
    if not total:
        return
    named = list(rows)
    more = f"<p class=soft>and {total - len(named):,} more</p>" if total > len(named) else ""
    yield f'<h2 id="{name.partition(" ")[0]}">{name}: {total:,}</h2>'
    yield f"{table(columns, named)}{more}"
