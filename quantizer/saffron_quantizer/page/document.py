"""The whole page: header, sections, and a footer that says what it does not tell."""

from collections.abc import Sequence
from importlib.resources import files

from saffron_api.quantized_model import Selection
from saffron_api.selection import choose
from saffron_quantizer.page.figures import gates_section, quality_section, tasks_section
from saffron_quantizer.page.layers import blocks_section, channels_section
from saffron_quantizer.page.markup import Markup, element, join
from saffron_quantizer.page.overview import overview
from saffron_quantizer.page.raised import raised_section
from saffron_quantizer.page.table import section
from saffron_quantizer.readable import plain, size
from saffron_quantizer.report import LIMITS, Report, differences, recipe

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The browser fetches nothing for this page, and runs no script in it."""


def page(reports: Sequence[Report], *, title: str, selection: Selection) -> str:
    """A page of HTML about candidates of one original; the same reports give the same bytes.

    Args:
        reports: at least one.
        title: of the page.
        selection: the rule by which one of those that pass is pointed out.
    """
    by_size = sorted(reports, key=lambda report: report.bytes)
    # The author's order decides between equals, so that what is pointed out is what `saffron run` selects.
    chosen = choose(selection, reports)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(files(__package__ or "").joinpath("style.css").read_text(encoding="utf-8"))),
    )
    body = element(
        "body",
        _header(by_size, title),
        element(
            "main",
            overview(by_size, chosen),
            quality_section(by_size),
            gates_section(by_size),
            tasks_section(by_size),
            blocks_section(by_size),
            channels_section(by_size),
            raised_section(by_size),
            _origin(by_size),
            section("limits", "What these figures do not tell", element("ul", *(element("li", x) for x in LIMITS))),
        ),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _header(reports: Sequence[Report], title: str) -> Markup:
    first = reports[0]
    many = f"{len(reports)} candidates" if len(reports) > 1 else "One candidate"
    about = (
        f"{many} against the original, on {first.units} conversations with {first.scored_tokens:,} scored tokens; "
        f"each bound at a confidence of {plain(first.level)}."
    )
    warnings = (
        element("p", f"These reports are of different {what}: compare them with care.", class_="warning", role="alert")
        for what in differences(reports)
    )
    return element("header", element("h1", title), element("p", about, class_="soft"), *warnings)


def _origin(reports: Sequence[Report]) -> Markup:
    """Where every figure comes from, so that it can be had again."""
    parts = [
        join(
            element("h3", f"{number} {report.label}"),
            element("dl", *(join(element("dt", name), element("dd", told)) for name, told in origin(report))),
        )
        for number, report in enumerate(reports, start=1)
    ]
    return section("origin", "Where these figures come from", *parts)


def origin(report: Report) -> list[tuple[str, str]]:
    """What a report rests on, as names and values."""
    settings, machine, timings = report.fingerprint.settings, report.fingerprint.machine, report.timings
    engine = settings.engine
    computed = (
        f"in {machine.dtype} on a CPU with {machine.isa}, {machine.threads} threads; torch {machine.torch}, "
        f"transformers {machine.transformers}"
    )
    return [
        ("recipe", recipe(report.candidate)),
        ("checkpoint", report.digest),
        ("original", settings.model_digest),
        ("data", settings.data_digest),
        ("candidate computed", computed if engine is None else f"by the engine at {engine.url}, as {engine.model}"),
        *([("original computed", computed)] if engine is not None else []),
        ("bounds", f"studentized bootstrap by conversation, {settings.resamples:,} resamples, seed {settings.seed}"),
        ("perplexity", f"{plain(report.perplexity_original)} of the original, {plain(report.perplexity_candidate)}"),
        ("time", f"{timings.original + timings.candidate + timings.compare:.1f} s to measure"),
        ("peak memory", size(report.peak_bytes)),
    ]
