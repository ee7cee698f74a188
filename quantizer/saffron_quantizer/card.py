"""The model card of a checkpoint: Markdown under YAML that the Hugging Face hub reads."""

from collections.abc import Sequence

import yaml

from saffron_api.gates import EXACT_FIGURES, MIN_UNITS
from saffron_quantizer.readable import plain, rough, size
from saffron_quantizer.report import FIGURE_TITLES, LIMITS, GateRow, Report, recipe, served_together


def model_card(report: Report, others: Sequence[Report], *, title: str, base_model: str | None) -> str:
    """The card of one checkpoint; the same reports give the same bytes.

    Args:
        report: of the checkpoint.
        others: of the candidates that it was chosen among, for a table.
        title: of the card.
        base_model: the original's name on the hub; None where it has none, and then the card names only its digest.
    """
    parts = [
        f"---\n{_front_matter(report, base_model)}---",
        f"# {title}",
        _summary(report, base_model),
        "## How it was made",
        _making(report),
        "## How it compares with the original",
        _figures(report),
        *([] if not others else ["## Beside the other candidates", _side_by_side([report, *others])]),
        "## What these figures do not tell",
        "\n".join(f"- {limit}" for limit in LIMITS),
        "The licence and the terms of use are those of the original.",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(report: Report, base_model: str | None) -> str:
    spec = report.candidate
    named = {} if base_model is None else {"base_model": base_model, "base_model_relation": "quantized"}
    made = spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"name", "job"})
    meta = {
        **named,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["quantized", "saffron", spec.method.lower(), spec.scheme.lower()],
        "quantization": made,
    }
    return yaml.safe_dump(meta, sort_keys=False, allow_unicode=True)


def _summary(report: Report, base_model: str | None) -> str:
    share = report.bytes / report.original_bytes
    of = f"`{base_model}`" if base_model else f"the model with the digest `{report.fingerprint.settings.model_digest}`"
    return (
        f"{of}, quantized with {recipe(report.candidate)}: {size(report.bytes)} instead of "
        f"{size(report.original_bytes)}, {share:.1%} of its bytes."
    )


def _making(report: Report) -> str:
    dampings = [layer.max_damping for layer in report.layers]
    rows = [
        ("recipe", recipe(report.candidate)),
        ("linears quantized", str(sum(layer.modules for layer in report.layers))),
        ("largest damping of a Hessian", plain(max(dampings, default=0.0))),
        ("dead input columns", str(sum(layer.dead_columns for layer in report.layers))),
        ("GPUs that can serve it together", served_together(report)),
        ("checkpoint", f"`{report.digest}`"),
        ("original", f"`{report.fingerprint.settings.model_digest}`"),
    ]
    return _table(("", ""), rows)


def _figures(report: Report) -> str:
    rows = [
        (
            FIGURE_TITLES[row.name],
            plain(row.value),
            plain(row.lower),
            plain(row.upper),
            "-" if row.limit is None else plain(row.limit),
            row.verdict or "-",
        )
        for row in report.gates
    ]
    settings = report.fingerprint.settings
    where = (
        "by Saffron's own forward pass"
        if settings.engine is None
        else "through a running vLLM, the original by Saffron"
    )
    how = (
        f"Measured {where} on {report.units} conversations with {report.scored_tokens:,} scored tokens, which the "
        f"weights were not fitted to; data `{settings.data_digest}`. Perplexity {plain(report.perplexity_original)} of "
        f"the original, {plain(report.perplexity_candidate)} of this. Each bound is one-sided, at a confidence of "
        f"{plain(report.level)}, by a bootstrap over conversations."
    )
    judged = "" if report.verdict is None else f" Verdict: **{report.verdict}**."
    table = _table(("figure", "value", "lower bound", "upper bound", "limit", "verdict"), rows)
    return f"{table}\n\n{how}{judged}\n\n{_power(report)}"


def _power(report: Report) -> str:
    if report.units < MIN_UNITS:
        return f"At {report.units} conversations no margin can be shown; {MIN_UNITS} are the least."
    margins = [
        f"{rough(row.margin)} for {FIGURE_TITLES[row.name]}"
        for row in report.gates
        if row.margin is not None and row.name not in EXACT_FIGURES
    ]
    if not margins:
        return f"At {report.units} conversations no margin can be told: all of them say the same."
    return (
        f"At {report.units} conversations the smallest margin that can be shown, 4 times out of 5, is "
        f"{', '.join(margins)}."
    )


def _side_by_side(reports: Sequence[Report]) -> str:
    names = [row.name for row in reports[0].gates]
    rows = []
    for report in reports:
        found = {row.name: row for row in report.gates}
        cells = [_cell(found[name]) if name in found else "-" for name in names]
        rows.append((report.label, size(report.bytes), *cells, report.verdict or "-"))
    return _table(("candidate", "bytes", *(FIGURE_TITLES[name] for name in names), "verdict"), rows)


def _cell(row: GateRow) -> str:
    return (
        plain(row.value) if row.lower == row.upper else f"{plain(row.value)} ({plain(row.lower)} to {plain(row.upper)})"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
