"""The one HTML page: whole, offline, the same every time."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from nas.plots import style, transfer
from nas.plots.page import page

VOID = {"meta", "br", "img", "link", "input", "hr"}
FIGURES = ("pareto", "pareto-latency_ms", "search", "predictor", "predictor-flops", "accuracy", "loss", "sampling", "transfer")


class Reader(HTMLParser):
    """Open tags, ids, addresses and visible words of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.ids, self.addresses, self.words = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.ids += [v for k, v in attrs if k == "id"]
        self.addresses += [v for k, v in attrs if k in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)


@pytest.fixture(scope="module")
def text(findings) -> str:
    return page(findings)


@pytest.fixture(scope="module")
def read(text) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_every_tag_is_closed(read):
    """Well nested throughout."""
    assert read.open == []


def test_nothing_is_fetched(read, text):
    """No address at all: scripts, styles and figures are in the page; plotly.js once, in full."""
    assert read.addresses == []
    assert text.count("<script") == text.count("</script>") and len(text) > 1_000_000
    assert "cdn.plot.ly/plotly" not in text.split("</head>")[1] and "@import" not in text.split("</style>")[0]


def test_every_figure_is_there_once(read, text):
    """Each figure has its fixed id, once, and a script that draws into it."""
    assert sorted(read.ids) == sorted(FIGURES)
    assert all(re.search(rf'Plotly\.newPlot\(\s*"{key}"', text) for key in FIGURES)


def test_the_same_findings_give_the_same_page(findings, text):
    """Byte for byte, so that its hash is stable: no times, no random ids."""
    assert page(findings) == text


def test_it_fits_a_narrow_screen(text):
    """The width follows the device, and wide tables scroll by themselves."""
    assert 'name="viewport" content="width=device-width' in text
    assert text.count('<div class="scroll"><table') == text.count("<table") == 2


def test_the_numbers_are_those_of_the_findings(findings, read):
    """Every model's test accuracy, the set's size and the budget can be read."""
    words = " ".join(read.words)
    for top1 in findings.family["top1_test"]:
        assert f"{top1:.1f}" in words
    assert "26 classes" in words and f"{findings.architectures:,} architectures" in words and "384 evaluations" in words


def test_text_from_files_is_escaped(read, text):
    """A tag in params.yaml is shown, not obeyed."""
    assert "# &lt;b&gt;" in text and any("# <b>" in w for w in read.words)


def test_without_transfer_sets_there_is_no_such_section(findings):
    """Own images, nothing to transfer to: the rest of the page is there."""
    text = page(replace(findings, transfer=findings.transfer.iloc[:0]))
    assert "<h2>Transfer</h2>" not in text and "<h2>The family</h2>" in text
    assert style.image(transfer.chart(findings.transfer.iloc[:0])).axes[0].get_title(loc="left") == "No transfer sets"
