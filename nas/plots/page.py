"""The report as one HTML page: everything is embedded, so it opens without a network, on any screen.

The same findings give the same bytes: no dates, no random ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd
import plotly.io
from plotly.offline import get_plotlyjs

from nas.plots import curves, family, pareto, predictor, sampling, search, style, transfer
from nas.search.family import hypervolume
from nas.search.predictor import kendall_tau


@dataclass(frozen=True, eq=False)
class Findings:
    """What the stages found; the tables are those that the figures of `nas.plots` take."""

    dataset: str  # what the images are, e.g. "glyphs"
    classes: int
    images: dict[str, int]  # images by part: train, predictor, search, val, test
    space: str  # name of the search space
    architectures: int  # in it
    costs: tuple[str, ...]  # that the family is shown by, e.g. ("mflops", "latency_ms")
    strategy: str  # of attentive sampling, e.g. "bestup-3-loss"
    largest_mflops: float
    family: pd.DataFrame  # name, arch, mflops, parameters, top1_search, top1_test
    ends: pd.DataFrame  # mflops, parameters, top1_test of the smallest and the largest sub-network
    evaluated: pd.DataFrame  # mflops, parameters, top1, method
    predictions: pd.DataFrame  # mflops, measured, predicted, part
    pretrain: pd.DataFrame  # history, a row an epoch
    train: pd.DataFrame  # history, a row an epoch
    transfer: pd.DataFrame  # set, model, mflops, learning_rate, weight_decay, top1_holdout, top1_test, best
    trials: pd.DataFrame  # target, uniform, paper_mean, paper_std, exact
    params: str  # the text of params.yaml


def page(found: Findings) -> str:
    """The whole page as HTML text."""
    title = f"Pareto NAS on {found.dataset}"
    body = [
        f"<header><h1>{escape(title)}</h1><p>{_done(found)}</p></header>",
        cards(_headline(found)),
        section(
            "The family",
            "Each blue point is a network of its own, cut out of the one supernet without further training, and measured on test "
            "images that nothing was trained or chosen on. Up and to the left is better. Grey points are the sub-networks that "
            "the search looked at; they and the fronts are measured on the search split, on which the family was chosen, so they "
            "lie a little too high.",
            [pareto.chart(found.family, found.ends, found.evaluated, cost) for cost in found.costs],
            family.table(found.family),
            "An architecture reads: input side; stem channels; each stage as channels × blocks, kernel side k and expansion e; "
            "channels before the classifier. Parameters count the network that is deployed.",
        ),
        section(
            "The search",
            "The area between each search's front and the corner of the largest network's cost and chance accuracy, both axes "
            "scaled to [0, 1]. A line that is higher has found better networks with as many evaluations.",
            [search.chart(found.evaluated, found.largest_mflops, 100 / found.classes)],
        ),
        section(
            "The accuracy predictor",
            "Sub-networks that the predictor was not fitted to. Kendall's τ is 1 if the ranking is right throughout and 0 if it "
            "is chance; beside it, how well cost alone would rank the same networks.",
            predictor.charts(found.predictions),
        ),
        section(
            "Training",
            "Accuracy of the smallest and the largest sub-network on images kept aside to watch, and the losses of a training "
            "step. The largest learns from labels, the others from the largest.",
            [curves.accuracy(found.pretrain, found.train), curves.loss(found.train)],
        ),
        section(
            "Sampling under a cost target",
            "How many architectures must be drawn until one has the cost that training asks for. Fewer is better, one is the "
            "least there is.",
            [sampling.chart(found.trials)],
        ),
        "" if found.transfer.empty else _transfer(found.transfer),
        "<section><h2>Where this comes from</h2>"
        f"<details><summary>params.yaml</summary><pre>{escape(found.params)}</pre></details></section>",
    ]
    return document(title, body)


def document(title: str, body: Sequence[str]) -> str:
    """Parts of HTML as one page that needs nothing else."""
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{CSS}</style><script>{get_plotlyjs()}</script>"
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body><main>\n' + "\n".join(body) + "\n</main></body></html>\n"


def _transfer(results: pd.DataFrame) -> str:
    return section(
        "Transfer",
        "Models of the family fine-tuned on other images. Learning rate, weight decay and the model to report were chosen "
        "on a hold-out of the training images; a star is the test accuracy of what was chosen, read once.",
        [transfer.chart(results)],
        transfer.table(results),
        "Hold-out accuracy of each model with its best setting; test accuracy where the model was chosen.",
    )


def _done(found: Findings) -> str:
    parts = ", ".join(f"{n:,} {escape(part)}" for part, n in found.images.items())
    return (
        f"{found.classes} classes of {escape(found.dataset)} ({parts} images). Search space {escape(found.space)}, "
        f"{found.architectures:,} architectures. The supernet was trained for {len(found.pretrain)} epochs with uniform sampling to "
        f"fit the accuracy predictor, then for {len(found.train)} epochs with {escape(found.strategy)}; {len(found.evaluated):,} of its "
        "sub-networks were evaluated by the searches."
    )


def _headline(found: Findings) -> list[tuple[str, str]]:
    models = found.family.sort_values("mflops")
    cheap, dear = models.iloc[0], models.iloc[-1]
    test = found.predictions[found.predictions["part"] == "test"]
    numbers = [
        (f"{dear['top1_test']:.1f} %", f"test top-1 of {dear['name']} at {dear['mflops']:.3g} MFLOPs"),
        (f"{cheap['top1_test']:.1f} %", f"test top-1 of {cheap['name']} at {cheap['mflops']:.3g} MFLOPs"),
        (f"{kendall_tau(test['predicted'], test['measured']):.2f}", "Kendall's τ of the accuracy predictor"),
    ]
    for method, rows in found.evaluated.groupby("method", sort=False):
        area = hypervolume(rows["mflops"].to_numpy(), rows["top1"].to_numpy(), found.largest_mflops, 100 / found.classes)
        numbers.append((f"{area:.3f}", f"hypervolume of {search.LOOKS[method][0]}, {len(rows):,} evaluations"))
    return numbers


def cards(numbers: list[tuple[str, str]]) -> str:
    """Large numbers with a line of words each."""
    return '<div class="cards">' + "".join(f"<div><b>{escape(n)}</b><span>{escape(words)}</span></div>" for n, words in numbers) + "</div>"


def section(
    title: str, text: str, charts: Sequence[style.Chart | style.BoxChart], table: pd.DataFrame | None = None, note: str = ""
) -> str:
    """A heading, how to read what follows, the charts, and a table with a note."""
    figures = "".join(f"<figure><figcaption>{escape(c.title)}</figcaption>{_plot(c)}</figure>" for c in charts)
    rows = "" if table is None else f'<div class="scroll">{table.to_html(index=False, border=0)}</div><p class="note">{escape(note)}</p>'
    layout = {2: "figures pair"}.get(len(charts), "figures" if len(charts) < 2 else "figures triple")
    return f'<section><h2>{escape(title)}</h2><p>{escape(text)}</p><div class="{layout}">{figures}</div>{rows}</section>'


def _plot(chart: style.Chart | style.BoxChart) -> str:
    return plotly.io.to_html(
        style.interactive(chart),
        full_html=False,
        include_plotlyjs=False,
        include_mathjax=False,
        div_id=chart.key,
        config={"responsive": True, "displaylogo": False, "displayModeBar": False},
    )


CSS = f"""
body {{ margin: 0; background: #F5F7F9; color: {style.INK}; font: 16px/1.55 {style.FONT}; }}
main {{ max-width: 1080px; margin: 0 auto; padding: 24px 16px 64px; }}
h1 {{ font-size: 1.9rem; margin: 8px 0; }} h2 {{ font-size: 1.3rem; margin: 0 0 4px; }} p {{ max-width: 75ch; margin: 6px 0 12px; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 20px 0; }}
.cards div, section {{ background: white; border: 1px solid #E3E7EB; border-radius: 10px; padding: 16px; }}
.cards b {{ display: block; font-size: 1.6rem; color: {style.BLUE}; }} .cards span {{ font-size: .85rem; }}
section {{ margin: 20px 0; }} .note {{ font-size: .85rem; color: #5B6670; }}
.figures {{ display: grid; grid-template-columns: minmax(0, 1fr); gap: 16px; }}
@media (min-width: 900px) {{ .pair {{ grid-template-columns: repeat(2, minmax(0, 1fr)); }} }}
@media (min-width: 900px) {{ .triple {{ grid-template-columns: repeat(3, minmax(0, 1fr)); }} }}
figure {{ margin: 0; min-width: 0; }} figcaption {{ font-weight: 600; font-size: .95rem; margin-bottom: 4px; }}
.scroll {{ overflow-x: auto; }} table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; width: 100%; }}
th, td {{ text-align: left; padding: 6px 12px 6px 0; border-bottom: 1px solid #E3E7EB; white-space: nowrap; vertical-align: top; }}
td:last-child {{ white-space: normal; min-width: 18em; }}
pre {{ background: #F5F7F9; padding: 12px; overflow-x: auto; font-size: .85rem; }} summary {{ cursor: pointer; }}
"""
