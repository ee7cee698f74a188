"""The page of reports: it says what they say, stands alone, and can be read by everybody."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saffron_api.candidate import Method, Scheme
from saffron_api.quantized_model import Gates, LowerLimit, Selection, UpperLimit
from saffron_api.results import Figure, FigureName
from saffron_quantizer.engine_address import Engine
from saffron_quantizer.page.blocks import Series, lines
from saffron_quantizer.page.document import page
from saffron_quantizer.page.drawing import style_of_number
from saffron_quantizer.page.markup import Markup, element, join
from saffron_quantizer.page.overview import headline
from saffron_quantizer.page.scale import Scale, fitted, log_ticks, ticks
from saffron_quantizer.report import EdgeRow, LinearRow, RaisedRow, RoundRow, judged

GATES = Gates(
    perplexity_ratio=UpperLimit(max=1.2),
    top_token_agreement=LowerLimit(min=0.8),
    checkpoint_bytes_ratio=UpperLimit(max=0.9),
)
VOID = {"meta", "br", "hr"}


class Tree(HTMLParser):
    """Reads a page strictly: every element that begins must end, in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.seen if name in attributes]


@pytest.fixture
def reports(make_report):
    made = [
        make_report(Method.RTN, Scheme.W4A16, size=400, loss=0.5, name="rtn-int4"),
        make_report(Method.GPTQ, Scheme.W4A16, size=401, loss=0.1, name="gptq-int4"),
        make_report(Method.RTN, Scheme.W8A8, size=600, loss=0.01, name="int8"),
    ]
    return [judged(report, GATES) for report in made]


def shown(reports, **changes):
    return page(reports, **{"title": "Gemma, smaller", "selection": Selection.SMALLEST, **changes})


def test_it_says_what_the_reports_say(reports):
    text = Tree(shown(reports)).text
    assert "2 of 3 candidates pass every gate. Selected: gptq-int4, 401.0 MB instead of 1.0 GB, 40% of the" in text
    for words in (
        "3 candidates against the original, on 60 conversations with 15,360 scored tokens",
        "✓ Pass 401.0 MB 40.1% not known 1.100 [1.080, 1.130]",
        "✗ Fail",
        "gate: 1.2 at most",
        "gate: 1.2 ",
        "gate: 0.8 at least",
        "At 60 conversations the smallest margin that can be shown, 4 times out of 5, is",
        "largest damping of a Hessian",
        "largest input channel over the median one",
        "2 of 3 candidates have no such notes.",
        "studentized bootstrap by conversation, 10,000 resamples, seed 1",
    ):
        assert words in text


CARDS = {"many": (8, "up to 8"), "one": (1, "one"), "what nobody knows": (None, "not known")}


@pytest.mark.parametrize(("cards", "words"), CARDS.values(), ids=CARDS)
def test_it_says_how_many_gpus_can_serve_a_candidate_together(cards, words, make_report):
    text = Tree(shown([make_report(name="gptq-int4", tensor_parallel=cards)])).text
    assert f"1 gptq-int4 GPTQ W4A16 g128 - 400.0 MB 40.0% {words} 1.100 [1.080, 1.130]" in text


def test_the_rule_decides_what_is_pointed_out(reports):
    assert "Selected: int8" in Tree(shown(reports, selection=Selection.BEST_QUALITY)).text


def test_it_stands_alone(reports):
    text = shown(reports)
    tree = Tree(text)
    assert {tag for tag, _ in tree.seen} & {"script", "link", "img", "iframe", "object", "base"} == set()
    assert [name for name in ("src", "href", "xlink:href", "data", "onclick") if tree.attributes(name)] == []
    assert re.findall(r"@import|url\(|https?:", text) == []
    assert "default-src 'none'" in tree.attributes("content")[0]


def test_the_same_reports_give_the_same_bytes(reports):
    assert shown(reports) == shown(reports)


def test_everybody_can_read_it(reports):
    tree = Tree(shown(reports))
    ids = tree.attributes("id")
    assert len(ids) == len(set(ids))
    pictures = [attributes for tag, attributes in tree.seen if tag == "svg" and "aria-hidden" not in attributes]
    assert pictures
    assert all(picture["role"] == "img" for picture in pictures)
    for name in ("aria-labelledby", "aria-describedby"):
        assert set(tree.attributes(name)) <= set(ids)
    tags = [tag for tag, _ in tree.seen]
    assert tags.count("table") == tags.count("caption")
    assert {attributes.get("scope") for tag, attributes in tree.seen if tag == "th"} == {"col", "row"}
    assert dict(tree.seen[0][1]) == {"lang": "en"}
    assert "width=device-width, initial-scale=1" in tree.attributes("content")


def test_colours_are_for_light_and_dark(reports):
    text = shown(reports)
    defined = set(re.findall(r"(--[\w-]+):", text))
    assert set(re.findall(r"var\((--[\w-]+)\)", text)) == defined
    dark = text[text.index("prefers-color-scheme: dark") :]
    assert set(re.findall(r"(--[\w-]+):", dark)) == defined


SENTENCES = {
    "no gate": ({}, None, "These figures were judged by no gate: there is no verdict."),
    "one that passes": ({"loss": 0.01}, GATES, "1 of 1 candidate passes every gate. Selected: gptq-int4, 400.0 MB"),
    "one that fails": ({"loss": 0.9}, GATES, "0 of 1 candidate passes every gate. None is selected."),
    "too few conversations": (
        {"units": 29},
        GATES,
        "0 of 1 candidate passes every gate. None is selected: for at least one, these data do not suffice",
    ),
}


@pytest.mark.parametrize(("changes", "gates", "expected"), SENTENCES.values(), ids=SENTENCES.keys())
def test_the_headline_of(changes, gates, expected, make_report):
    report = make_report(name="gptq-int4", **changes)
    report = report if gates is None else judged(report, gates)
    assert expected in Tree(shown([report])).text


def test_a_headline_counts_only_what_was_judged(make_report):
    one = judged(make_report(loss=0.01, name="a"), GATES)
    assert headline([one, make_report(name="b")], None).startswith("1 of 1 candidate passes every gate.")


ABSENT = {
    "no notes of linears": ({"method": Method.RTN}, "The checkpoints' notes have no errors of single linears."),
    "no notes of channels": ({"method": Method.RTN}, "The checkpoints' notes have no magnitudes of channels."),
    "no smoothing": ({}, "No candidate was smoothed: plain rounding and GPTQ alone scale no channels."),
    "no damping": ({"method": Method.RTN}, "No Hessian was damped in any candidate."),
    "no dead column": ({"method": Method.RTN}, "No input column was dead in any candidate."),
    "no blocks": ({"layers": []}, "The checkpoints' notes have no blocks."),
    "too few conversations": ({"units": 12}, "At 12 conversations no margin can be shown: 30 are the least."),
    "an engine": (
        {"engine": Engine(url="http://localhost:8000/v1", model="m")},
        "measured through a running engine, which tells the log-probability of the text's own tokens only",
    ),
}


@pytest.mark.parametrize(("changes", "words"), ABSENT.values(), ids=ABSENT.keys())
def test_what_is_absent_is_told_with(changes, words, make_report):
    assert words in Tree(shown([make_report(**changes)])).text


def test_reports_of_different_data_are_told_apart(make_report):
    one, other = make_report(size=400), make_report(size=500)
    settings = other.fingerprint.settings.model_copy(update={"data_digest": "e" * 64})
    other = other.model_copy(update={"fingerprint": other.fingerprint.model_copy(update={"settings": settings})})
    assert "These reports are of different data: compare them with care." in Tree(shown([one, other])).text


def test_experts_share_a_row(make_report):
    report = make_report()
    (first, *_) = report.layers
    linears = [
        linear.model_copy(update={"name": f"mlp.experts.{number}.up_proj", "relative_error": 0.1 * (1 + number)})
        for number, linear in enumerate(first.linears)
    ]
    text = Tree(shown([report.model_copy(update={"layers": [first.model_copy(update={"linears": linears})]})])).text
    assert "mlp.experts.up_proj, block 0: 30" in text


def with_linears(report, names_by_block, error):
    """The report with linears of such names in each block, all of one error."""
    layers = [
        layer.model_copy(update={"linears": [LinearRow(name=name, relative_error=error) for name in names]})
        for layer, names in zip(report.layers, names_by_block, strict=False)
    ]
    return report.model_copy(update={"layers": layers})


def test_linears_stand_in_the_order_of_a_block_that_has_them_all(make_report):
    names = ["q_proj", "o_proj", "down_proj"]
    text = Tree(shown([with_linears(make_report(), [names[1:], names, names[:1]], 0.01)])).text
    assert re.findall(r"(\w+_proj), block 1: 1 ", text) == names
    assert "q_proj, block 0" not in text


def test_drawings_of_one_kind_share_their_colours(make_report):
    reports = [with_linears(make_report(size=size), [["o_proj"]], error) for size, error in ((1, 0.002), (2, 0.5))]
    text = shown(reports)
    faint, strong = map(float, re.findall(r'fill-opacity="([\d.]+)"><title>o_proj, block 0', text))
    assert faint < 0.3
    assert strong > 0.8
    assert Tree(text).text.count("o_proj, block 0: 0.2 first block last 0.2 50 ") == 1
    assert Tree(text).text.count("o_proj, block 0: 50 first block last 0.2 50 ") == 1


def test_lines_that_cover_each_other_are_named(make_report):
    reports = [make_report(size=size, name=name) for size, name in ((1, "a"), (2, "b"))]
    assert "The dead input columns are the same in 1 a, 2 b." in Tree(shown(reports)).text


@pytest.mark.parametrize(
    ("values", "expected"), [([0.0, 1.0, 2.0], ["0", "1", "2"]), ([0.0, 0.5, 2.0], ["0", "0.5", "1", "1.5", "2"])]
)
def test_counts_have_no_fractions_on_their_axis(values, expected):
    drawing = lines("dead", "dead", [Series("a", style_of_number(0), values)])
    assert re.findall(r'text-anchor="end" class="tick">([\d.]+)<', drawing) == expected


def test_what_smoothing_did_is_told(make_report):
    report = make_report(name="sq-int8")
    edges = [
        EdgeRow(producer="input_layernorm", exponent=0.5, largest_scale=7.5, error=0.25),
        EdgeRow(producer="self_attn.v_proj", exponent=None, largest_scale=1.0, error=1.0),
    ]
    layers = [layer.model_copy(update={"edges": edges}) for layer in report.layers]
    text = Tree(shown([report.model_copy(update={"layers": layers})])).text
    assert "1 sq-int8: largest scale of a channel, by its producer" in text
    assert "input_layernorm, block 3: 7.5" in text
    assert "block 0, input_layernorm sq-int8 7.5 0.5 25.0%" in text
    assert "The 8 producers whose channels were scaled most" in text


def test_a_text_is_escaped_and_markup_is_not():
    assert element("p", "<b>&", Markup("<i>x</i>"), None, class_='a"b', data_x=0.125) == (
        '<p class="a&quot;b" data-x="0.12">&lt;b&gt;&amp;<i>x</i></p>'
    )
    assert join("<", Markup("<")) == "&lt;<"
    assert element("meta", charset="utf-8") == '<meta charset="utf-8">'
    assert element("g", x=-0.001, y=2.0) == '<g x="0" y="2"></g>'


def test_a_title_is_a_text(make_report):
    assert "<script>" not in shown([make_report()], title="<script>alert(1)</script>")


TICKS = {
    "unit steps": (0, 5, [0, 1, 2, 3, 4, 5]),
    "steps of a half": (1.0, 3.1, [1, 1.5, 2, 2.5, 3]),
    "small steps": (0.98, 1.06, [0.98, 1.0, 1.02, 1.04, 1.06]),
    "below 0": (-1, 1, [-1, -0.5, 0, 0.5, 1]),
}


@pytest.mark.parametrize(("low", "high", "expected"), TICKS.values(), ids=TICKS.keys())
def test_ticks_in(low, high, expected):
    assert ticks(low, high) == expected


LOG_TICKS = {
    "one decade": (0.01, 0.1, [0.01, 0.02, 0.05, 0.1]),
    "two decades": (1, 100, [1, 2, 5, 10, 20, 50, 100]),
    "many decades": (1e-9, 1, [1e-9, 1e-7, 1e-5, 1e-3, 1e-1]),
}


@pytest.mark.parametrize(("low", "high", "expected"), LOG_TICKS.values(), ids=LOG_TICKS.keys())
def test_logarithmic_ticks_in(low, high, expected):
    assert log_ticks(low, high) == pytest.approx(expected)


finite = st.floats(-1e6, 1e6)


@given(st.lists(finite, min_size=1, max_size=5))
def test_every_value_has_a_place_and_marks_lie_inside(values):
    scale = fitted(values, 200.0, 10.0)
    assert all(10 <= scale(value) <= 200 for value in values)
    assert 1 <= len(scale.ticks) <= 12
    assert all(scale.low <= tick * (1 + 1e-9) and tick * (1 - 1e-9) <= scale.high for tick in scale.ticks if tick > 0)


def test_a_scale_keeps_the_order_and_a_value_outside_at_its_edge():
    straight, logarithmic = Scale(0, 10, 0, 100), Scale(1, 100, 0, 100, logarithmic=True)
    assert [straight(value) for value in (-5, 0, 2.5, 10, 11)] == [0, 0, 25, 100, 100]
    assert [logarithmic(value) for value in (0.1, 1, 10, 100)] == pytest.approx([0, 0, 50, 100])


def a_round(raises, size, value, *, holds):
    figure = Figure(name=FigureName.PERPLEXITY_RATIO, value=value, lower=value - 0.01, upper=value + 0.01)
    return RoundRow(raises=raises, bytes=size, holds=holds, figures=[figure])


def test_what_was_raised_is_told_with_the_rounds_that_led_there(make_report):
    row = {"unit": "model.layers.3.mlp.down_proj", "from": "W4A16", "to": "W8A16", "damage": 0.0125, "bytes": 3_000_000}
    rounds = [a_round(0, 400_000_000, 1.25, holds=False), a_round(5, 430_000_000, 1.08, holds=True)]
    one = make_report(name="mixed", raised=[RaisedRow.model_validate(row)], rounds=rounds)
    two = make_report(name="calm", rounds=[a_round(0, 400_000_000, 1.05, holds=True)])
    text = Tree(shown([one, two])).text
    for words in (
        "nothing raised 400.0 MB 1.250 [1.240, 1.260] - - no",
        "5 raised 430.0 MB 1.080 [1.070, 1.090] - - yes",
        "model.layers.3.mlp.down_proj W4A16 W8A16 0.0125 3.0 MB",
        "2 calm: the limits hold with nothing raised.",
    ):
        assert words in text
    assert "Kept exact where it matters" not in Tree(shown([make_report(name="plain")])).text
