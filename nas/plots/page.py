"""The report as one HTML page with everything embedded: it opens offline, on any screen.

The page has no dates and no random ids, so the same results give the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd
import plotly.io
from plotly.offline import get_plotlyjs

from nas.evaluation.metrics import hypervolume, kendall_tau
from nas.plots import pareto, predictor, search, style, training, transfer

Charts = Sequence[style.Chart | style.BoxChart]


@dataclass(frozen=True, eq=False)
class Results:
    """Results of the pipeline's stages; the tables are the arguments of the figures in `nas.plots`."""

    dataset: str  # title, e.g. "Latin letters"
    classes: int
    images: dict[str, int]  # split -> number of images: train, predictor, search, val, test
    space: str  # name of the search space
    architectures: int  # size of the space
    costs: tuple[str, ...]  # costs on the horizontal axis of the Pareto figures, e.g. ("mflops", "latency_ms")
    strategy: str  # of attentive sampling, e.g. "bestup-3-loss"
    largest_mflops: float
    family: pd.DataFrame  # name, arch, mflops, parameters, top1_search, top1_test
    ends: pd.DataFrame  # mflops, parameters, top1_test of the smallest and the largest sub-network
    evaluated: pd.DataFrame  # mflops, parameters, top1, method
    predictions: pd.DataFrame  # mflops, measured, predicted, part
    pretrain: pd.DataFrame  # history, one row per epoch
    train: pd.DataFrame  # history, one row per epoch
    transfer: pd.DataFrame  # set, model, mflops, learning_rate, weight_decay, top1_holdout, top1_test, best
    trials: pd.DataFrame  # target, uniform, paper_mean, paper_std, exact
    params: str  # the text of params.yaml

    @property
    def chance(self) -> float:
        """Top-1 at chance level, percent."""
        return 100 / self.classes


def charts(results: Results) -> dict[str, Charts]:
    """All figures by file name, in the order of the page."""
    return {
        "pareto": [pareto.chart(results.family, results.ends, results.evaluated, cost) for cost in results.costs],
        "search": [search.chart(results.evaluated, results.largest_mflops, results.chance)],
        "predictor": predictor.charts(results.predictions),
        "accuracy": [training.accuracy(results.pretrain, results.train)],
        "loss": [training.loss(results.train)],
        "sampling": [training.sampling(results.trials)],
        "transfer": [transfer.chart(results.transfer)],
    }


def page(results: Results) -> str:
    """The whole page as HTML text."""
    title = f"Pareto NAS on {results.dataset}"
    body = [
        f"<header><h1>{escape(title)}</h1><p>{_summary(results)}</p></header>",
        cards(_headline(results)),
        *_sections(results, charts(results)),
        f"<section><h2>Parameters</h2><details><summary>params.yaml</summary><pre>{escape(results.params)}</pre></details></section>",
    ]
    return document(title, body)


def _sections(results: Results, figures: Mapping[str, Charts]) -> list[str]:
    sections = [
        section(
            "Pareto family",
            "Blue: the models of the family, sub-networks extracted from one supernet without further training, evaluated on held-out test "
            "images. Higher and further left is better. Grey: architectures evaluated by the search. Grey points and Pareto fronts are "
            "measured on the search split; the family was selected on it, so these accuracies are slightly optimistic.",
            figures["pareto"],
            pareto.table(results.family),
            "Architecture: input side | stem channels | each stage as channels × blocks, kernel side k, expansion e | channels before the "
            "classifier. Parameters are those of the extracted model.",
        ),
        section(
            "Search",
            "Hypervolume between the Pareto front and the reference point (cost of the largest sub-network, chance accuracy), both axes "
            "scaled to [0, 1]. A higher line means better architectures after the same number of evaluations.",
            figures["search"],
        ),
        section(
            "Accuracy predictor",
            "Sub-networks outside the predictor's training data. Kendall's τ is 1 for a perfect ranking and 0 for a random one. The right "
            "figure ranks the same sub-networks by FLOPs alone.",
            figures["predictor"],
        ),
        section(
            "Training",
            "Accuracy of the smallest and the largest sub-network on the validation split, and the losses of a training step. The largest "
            "sub-network learns from labels, the others by distillation from the largest.",
            [*figures["accuracy"], *figures["loss"]],
        ),
        section(
            "Sampling under a FLOPs target",
            "Number of architectures drawn until one meets the FLOPs target of a training step. Fewer is better; the minimum is one.",
            figures["sampling"],
        ),
    ]
    if not results.transfer.empty:
        sections.append(
            section(
                "Transfer",
                "Models of the family, fine-tuned on other datasets. Learning rate, weight decay and the reported model were selected on a "
                "hold-out of the training images. Stars: test accuracy of the selected model, measured once.",
                figures["transfer"],
                transfer.table(results.transfer),
                "Hold-out accuracy of each model with its best hyperparameters; test accuracy of the selected model.",
            )
        )
    return sections


def _summary(results: Results) -> str:
    splits = ", ".join(f"{n:,} {escape(split)}" for split, n in results.images.items())
    return (
        f"{results.classes} classes of {escape(results.dataset)} ({splits} images). Search space {escape(results.space)}, "
        f"{results.architectures:,} architectures. The supernet was trained for {len(results.pretrain)} epochs with uniform sampling to "
        f"fit the accuracy predictor, then for {len(results.train)} epochs with {escape(results.strategy)}. The searches evaluated "
        f"{len(results.evaluated):,} architectures."
    )


def _headline(results: Results) -> list[tuple[str, str]]:
    models = results.family.sort_values("mflops")
    test = results.predictions[results.predictions["part"] == "test"]
    numbers = [
        (f"{model['top1_test']:.1f} %", f"test top-1 of {model['name']} at {model['mflops']:.3g} MFLOPs")
        for model in (models.iloc[-1], models.iloc[0])
    ]
    numbers.append((f"{kendall_tau(test['predicted'], test['measured']):.2f}", "Kendall's τ of the accuracy predictor"))
    for method, rows in results.evaluated.groupby("method", sort=False):
        volume = hypervolume(rows["mflops"].to_numpy(), rows["top1"].to_numpy(), results.largest_mflops, results.chance)
        numbers.append((f"{volume:.3f}", f"hypervolume of {search.METHODS[method][0]}, {len(rows):,} evaluations"))
    return numbers


def cards(numbers: list[tuple[str, str]]) -> str:
    """Key numbers in large type, each with a caption."""
    items = (f"<div><b>{escape(number)}</b><span>{escape(caption)}</span></div>" for number, caption in numbers)
    return f'<div class="cards">{"".join(items)}</div>'


def section(title: str, text: str, charts: Charts, table: pd.DataFrame | None = None, note: str = "") -> str:
    """A heading, an explanation, the charts, and a table with a note."""
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


def document(title: str, body: Sequence[str]) -> str:
    """A self-contained HTML page from the parts of its body."""
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{CSS}</style><script>{get_plotlyjs()}</script>"
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body><main>\n' + "\n".join(body) + "\n</main></body></html>\n"


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
