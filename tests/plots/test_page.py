"""The HTML page: complete, offline, reproducible."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from nas.plots import style, transfer
from nas.plots.page import page

VOID = {"meta", "br", "img", "link", "input", "hr"}
FIGURES = ("pareto", "pareto-latency_ms", "search", "predictor", "predictor-flops", "accuracy", "loss", "sampling", "transfer")


class Reader(HTMLParser):
    """Collects open tags, ids, addresses and visible text of a page."""

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
def text(results) -> str:
    return page(results)


@pytest.fixture(scope="module")
def read(text) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_every_tag_is_closed(read):
    """Tags are closed and well nested."""
    assert read.open == []


def test_nothing_is_fetched(read, text):
    """The page has no addresses: scripts, styles and figures are embedded, plotly.js once."""
    assert read.addresses == []
    assert text.count("<script") == text.count("</script>") and len(text) > 1_000_000
    assert "cdn.plot.ly/plotly" not in text.split("</head>")[1] and "@import" not in text.split("</style>")[0]


def test_every_figure_is_there_once(read, text):
    """Each figure has its fixed id exactly once, and a script that draws into it."""
    assert sorted(read.ids) == sorted(FIGURES)
    assert all(re.search(rf'Plotly\.newPlot\(\s*"{key}"', text) for key in FIGURES)


def test_the_same_results_give_the_same_page(results, text):
    """The bytes are equal, so the hash is stable: no dates, no random ids."""
    assert page(results) == text


def test_it_fits_a_narrow_screen(text):
    """The width follows the device, and wide tables scroll."""
    assert 'name="viewport" content="width=device-width' in text
    assert text.count('<div class="scroll"><table') == text.count("<table") == 2


def test_the_page_shows_the_numbers_of_the_results(results, read):
    """The page shows the test accuracy of every model, the sizes of dataset and space, and the number of evaluations."""
    words = " ".join(read.words)
    for top1 in results.family["top1_test"]:
        assert f"{top1:.1f}" in words
    assert "26 classes" in words and f"{results.architectures:,} architectures" in words and "384 evaluations" in words


def test_text_from_files_is_escaped(read, text):
    """A tag in params.yaml is shown as text."""
    assert "# &lt;b&gt;" in text and any("# <b>" in w for w in read.words)


def test_without_transfer_datasets_the_section_is_left_out(results):
    """The rest of the page is there."""
    text = page(replace(results, transfer=results.transfer.iloc[:0]))
    assert "<h2>Transfer</h2>" not in text and "<h2>Pareto family</h2>" in text
    assert style.image(transfer.chart(results.transfer.iloc[:0])).axes[0].get_title(loc="left") == "No transfer datasets"
