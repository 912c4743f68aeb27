"""The report as one HTML document, piece by piece.

Contract: nothing in it is fetched, sent or run: no address, no script, no form, and a policy that permits only its own
style sheet and the pictures in it. Its style sheet is that of the page. Complete without a plot, a picture or a colour:
each has its numbers or words beside it.

Source: Content Security Policy 3, 3.3 (policy in a meta element), 8.2 (hashes).
"""

from __future__ import annotations

import base64
import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exporter.page import plots
from exporter.page.failures import remedy
from exporter.page.problems import count_of, day_of, size_of, span_of
from exporter.page.report.markup import Html, coded, element, joined
from exporter.results.ledger.browsing import latency_words
from exporter.results.run_report import GENERATOR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from exporter.page.report.facts import ContactSheet, ReportFacts, RunNumbers, SheetTile

FEWEST_BARS: Final = 3
"""Slots of time of which a plot is made; fewer are a table alone."""
LONG_S: Final = 600
"""Time over which a rate means something, though its ends are known by whole minutes."""
STATIC: Final = Path(__file__).parents[1] / "static"

_div: Final = partial(element, "div")
_p: Final = partial(element, "p")


def document(facts: ReportFacts) -> Iterator[str]:
    """The document, piece by piece."""
    style = "".join((STATIC / name).read_text(encoding="utf-8") for name in ("page.css", "report.css"))
    yield from _head(style, "Report: all is well" if facts.standing.well else "Report: needs a look")
    yield _top(facts)
    yield element("main", id="main", tabindex="-1").removesuffix("</main>")
    for section in (
        _verdict,
        _numbers,
        _failures,
        _warnings,
        _work,
        _media,
    ):
        yield section(facts)
    yield from _sheets(facts)
    yield _settings(facts)
    yield "</main>\n"
    yield element(
        "footer", _p(f"Version {facts.standing.version}. Made {day_of(facts.made)}; it does not renew itself.")
    )
    yield "</body>\n</html>\n"


def _head(style: str, title: str) -> Iterator[str]:
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; media-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield element("meta", name="generator", content=GENERATOR)
    # Our own policy: its quotation marks are no one else's.
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    yield element("meta", name="viewport", content="width=device-width, initial-scale=1")
    yield element("meta", name="color-scheme", content="light dark")
    yield element("meta", name="referrer", content="no-referrer")
    yield element("title", f"{title} - DICOM Media Exporter")
    yield element("link", rel="icon", href="data:,")  # else browsers ask a server for one
    yield f"<style>{style}</style>\n</head>\n<body>\n"


def _top(facts: ReportFacts) -> Html:
    skip = element("a", "Skip to the content", class_="skip", href="#main")
    made = element("p", f"Report of {day_of(facts.made)}", class_="header-line")
    return joined([skip, element("header", element("p", "DICOM Media Exporter", class_="brand"), made)])


def _section(name: str, title: str, *content: str) -> Html:
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, *content, id=name, aria_labelledby=f"{name}-title")


def _verdict(facts: ReportFacts) -> Html:
    standing = facts.standing
    level = standing.problems[0].level if standing.problems else "well"
    several = len(standing.problems) > 1
    items = [
        element("li", *([element("strong", coded(one.what)), " "] if several else []), coded(one.do), class_=one.level)
        for one in standing.problems
    ]
    parts = [element("h1", coded(standing.summary)), *([element("ul", *items)] if items else [])]
    if facts.run is not None:
        run = facts.run
        said = f"This run: {run.exported:,} exported, {run.skipped:,} skipped, {run.failed:,} failed"
        if run.unchanged:
            said += f", {run.unchanged:,} unchanged since an earlier run"
        parts.append(_p(f"{said}; {size_of(run.bytes)} read in {span_of(run.seconds)}{_rate(run)}."))
    return element("section", *parts, id="verdict", class_=f"verdict {level}", aria_label="How everything stands")


def _rate(run: RunNumbers) -> str:
    return f", {run.done / run.seconds:.1f} instances per second" if run.done and run.seconds > 0 else ""


def _numbers(facts: ReportFacts) -> Html:
    standing, count = facts.standing, facts.count
    failed = standing.failed + standing.quarantined
    tiles = [
        ("Exported", standing.exported, f"{standing.conflicts:,} in conflict with another", ""),
        ("Skipped", standing.skipped, f"{standing.duplicates:,} duplicates", ""),
        ("Failed", failed, f"{len(_by_reason(facts)):,} reasons", "bad" if failed else ""),
        ("Not done yet", standing.pending + standing.active, f"{standing.active:,} under way", ""),
        ("Studies", count.studies, f"{count.series:,} series, {count.instances:,} instances", ""),
        ("Media", sum(one.number for one in facts.media), size_of(sum(one.bytes for one in facts.media)), ""),
    ]
    shown = [
        _div(
            element("dt", name),
            element("dd", f"{number:,}"),
            element("dd", words, class_="sub"),
            class_=kind or None,
        )
        for name, number, words, kind in tiles
    ]
    skipped = ", ".join(f"{reason} {number:,}" for reason, number in standing.reasons.get("skipped", {}).items())
    return _section(
        "numbers",
        "Instances",
        element("dl", *shown, class_="tiles"),
        *([element("p", f"Skipped, which is no failure: {skipped}.", class_="sub")] if skipped else []),
    )


def _by_reason(facts: ReportFacts) -> list[tuple[str, int]]:
    totals: dict[str, int] = {}
    for state in ("failed", "quarantined"):
        for reason, number in facts.standing.reasons.get(state, {}).items():
            totals[reason] = totals.get(reason, 0) + number
    return sorted(totals.items(), key=lambda item: (-item[1], item[0]))


def _failures(facts: ReportFacts) -> Html:
    reasons = [
        element("li", element("span", reason, class_="word"), f" {number:,}: ", coded(remedy(reason)))
        for reason, number in _by_reason(facts)
    ]
    if not reasons:
        return _section("failures", "Failures", _p("Nothing failed. Skipped instances and duplicates are no failures."))
    rows = [
        (element("th", label, scope="row"), _td(element("span", reason, class_="word")), _td(message))
        for label, reason, message in facts.failures
    ]
    total = sum(number for _, number in _by_reason(facts))
    return _section(
        "failures",
        "Failures",
        element("ul", *reasons, class_="reasons"),
        _table("Failed instances", ("Instance", "Reason", "Message"), rows, class_="list"),
        element(
            "p",
            f"{len(rows):,} of {total:,}, the newest of every reason. ",
            coded("`exporter failures` lists all, and tries them again."),
            class_="sub",
        ),
    )


def _warnings(facts: ReportFacts) -> Html:
    exported = facts.standing.exported
    seen = (
        f"In the lines of {facts.lines_seen:,} of {exported:,} exported instances, the newest."
        if facts.lines_seen < exported
        else f"In the lines of all {count_of(exported, 'exported instance')}."
    )
    if facts.masked:
        seen += f" De-identification masked a part of the picture in {facts.masked:,} of them."
    if not facts.warnings:
        return _section("warnings", "Warnings", _p("No instance has a warning."), element("p", seen, class_="sub"))
    rows = [(_td(warning), _num(f"{number:,}")) for warning, number in facts.warnings]
    return _section(
        "warnings",
        "Warnings",
        _table("Warnings", ("Warning; others differ in numbers only", "Instances"), rows, class_="list"),
        element("p", seen, class_="sub"),
    )


def _work(facts: ReportFacts) -> Html:
    if facts.span is None or not facts.slots:
        return _section("work", "Time", _p("Nothing was done yet."))
    first, last = facts.span
    slot = span_of(facts.slot_minutes * 60)
    bars = [one[1:] for one in facts.slots]
    keys = [element("span", kind, class_=f"key {kind}") for kind in ("exported", "skipped", "failed")]
    caption = element(
        "figcaption",
        f"Outcomes, by {slot}: ",
        *(part for key in keys for part in (key, " ")),
        f"; the highest bar is {max(map(sum, bars)):,}.",
    )
    figure = element(
        "figure",
        caption,
        Html(plots.stacked_bars(bars, f"Outcomes from {day_of(first)} to {day_of(last)}")),
        element("p", element("span", day_of(first)), element("span", day_of(last)), class_="axis"),
    )
    rows = [
        (element("th", day_of(when), scope="row", class_="when"), *(_num(f"{number:,}") for number in numbers))
        for when, *numbers in facts.slots
        if any(numbers)
    ]
    table = _table("Outcomes by time", ("From", "Exported", "Skipped", "Failed"), rows)
    done = sum(map(sum, bars))
    standing = facts.standing
    said = [
        ("First and last outcome", f"{day_of(first)} to {day_of(last - 60)}, by whole minutes"),
        ("Input", f"{size_of(facts.bytes_in)}, attempts after a retry included"),
    ]
    if done and last - first >= LONG_S:
        said.insert(1, ("Mean rate in that time", f"{done / (last - first):.2f} instances per second"))
    if standing.last_day.half_within_s is not None:
        half, most = (latency_words(one) for one in (standing.last_day.half_within_s, standing.last_day.most_within_s))
        said.append(("From arrival to outcome", f"half within {half}, 95 % within {most} in the last 24 hours"))
    if len(bars) < FEWEST_BARS:
        return _section("work", "Time", _list_of(said), table)
    folded = element("details", element("summary", "The same as a table"), table)
    return _section("work", "Time", _list_of(said), figure, folded)


def _media(facts: ReportFacts) -> Html:
    if not facts.media:
        return _section("media", "Media", _p("There are no media yet."))
    most = max(one.bytes for one in facts.media)
    rows = [
        (
            element("th", one.kind, scope="row"),
            _num(f"{one.number:,}"),
            _num(size_of(one.bytes)),
            _td(Html(plots.share(one.bytes, most))),
            _num(f"{one.frames:,}" if one.frames else "-"),
            _td(span_of(one.duration_s) if one.duration_s >= 1 else "-"),
        )
        for one in facts.media
    ]
    heads = ("Kind", "Number", "Size", "Share of the largest", "Frames", "Length")
    return _section("media", "Media", _table("Media by kind", heads, rows))


# -- contact sheets --------------------------------------------------------------------------------------------------


def _sheets(facts: ReportFacts) -> Iterator[Html]:
    shown = sum(len(sheet.tiles) for sheet in facts.sheets)
    total = facts.standing.instances
    known = sum(1 for sheet in facts.sheets if sheet.study_uid)
    studies = f"{known:,} of {facts.count.studies:,} {'study' if facts.count.studies == 1 else 'studies'}"
    words = [
        f"{shown:,} of {count_of(total, 'instance')} in {studies}:",
        "first those with failures, warnings and masks, then others at even distances.",
    ]
    if not facts.has_pictures:
        words.append("Without pictures, as was asked for.")
    elif facts.is_deidentified:
        words.append("Only media that de-identification has cleared are shown.")
    else:
        words.append("Pictures show what is burned into them: give this file to nobody who may not see the media.")
    if facts.without_preview:
        words.append(
            f"{count_of(facts.without_preview, 'media file')} could not be shown: not there, damaged, or no time or"
            " room was left."
        )
    start = _section("sheets", "Contact sheets", _p(" ".join(words)))
    yield Html(f'{start.removesuffix("</section>")}<div class="sheets">')
    for number, sheet in enumerate(facts.sheets):
        yield _sheet(sheet, number)
    yield Html("</div></section>")


def _sheet(sheet: ContactSheet, number: int) -> Html:
    title = f"Study {sheet.study_uid}" if sheet.study_uid else "No study is known"
    some = f"{len(sheet.tiles):,} of {count_of(sheet.instances, 'instance')}"
    heading = element("h3", title, " ", element("span", some, class_="sub"), id=f"sheet-{number}")
    tiles = element("ul", *map(_tile, sheet.tiles), class_="tiles-of-media")
    return element("section", heading, tiles, class_="sheet", aria_labelledby=f"sheet-{number}")


def _tile(tile: SheetTile) -> Html:
    preview, is_bad = tile.preview, tile.mark in {"failed", "quarantined"}
    if preview is None:
        picture = element("p", "no media" if not tile.kinds else "no preview", class_="frame empty")
    elif preview.video:
        picture = element(
            "p",
            element(
                "video",
                controls=True,
                loop=True,
                muted=True,
                playsinline=True,
                preload="metadata",
                aria_label=f"Preview of {tile.label}",
                poster=Html(f"data:image/jpeg;base64,{preview.picture}"),
                src=Html(f"data:video/mp4;base64,{preview.video}"),
            ),
            class_="frame",
        )
    else:
        picture = element(
            "p",
            element(
                "img",
                src=Html(f"data:image/jpeg;base64,{preview.picture}"),
                width=preview.width,
                height=preview.height,
                alt=f"Preview of {tile.label}",
            ),
            class_="frame",
        )
    mark = [element("span", tile.mark, class_=f"pill {tile.mark}"), " "] if tile.mark else []
    words = [_p(*mark, tile.words)] if mark or tile.words else []
    kinds = [element("p", tile.kinds, class_="sub")] if tile.kinds else []
    return element("li", picture, *words, _p(tile.label), *kinds, class_="bad" if is_bad else None)


# -- settings --------------------------------------------------------------------------------------------------------


def _settings(facts: ReportFacts) -> Html:
    versions = _list_of([("Exporter", facts.standing.version), *facts.versions.items()])
    if facts.settings is None:
        said = _p(coded("Not known to this report: `exporter report OUT --config FILE` shows them."))
    else:
        import yaml

        lines = yaml.safe_dump(facts.settings, sort_keys=False, allow_unicode=True).splitlines()
        pre = element(
            "pre", Html("\n".join(element("code", line) for line in lines)), tabindex="0", aria_label="Settings"
        )
        said = element("details", element("summary", "All settings, without secrets and paths"), pre)
    return _section("settings", "Settings and versions", versions, said)


# -- parts -----------------------------------------------------------------------------------------------------------


def _list_of(facts: Iterable[tuple[str, str]]) -> Html:
    return element("dl", *(_div(element("dt", key), element("dd", value)) for key, value in facts), class_="facts")


def _table(label: str, heads: Sequence[str], rows: Iterable[Iterable[Html]], class_: str | None = None) -> Html:
    numbers = frozenset({"Number", "Size", "Frames", "Instances", "Exported", "Skipped", "Failed"})
    head = [element("th", name, scope="col", class_="num" if name in numbers else None) for name in heads]
    body = [element("tr", *row) for row in rows]
    table = element("table", element("thead", element("tr", *head)), Html("\n"), element("tbody", *body), class_=class_)
    return _div(table, class_="scroll", role="group", aria_label=label, tabindex="0")


_td: Final[Callable[..., Html]] = partial(element, "td")
_num: Final[Callable[..., Html]] = partial(element, "td", class_="num")
