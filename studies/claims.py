"""What the stages report of TF-NAS's and HardCoRe-NAS's claims share: checks beside comparisons, the page, and what is written.

A claim is taken apart into comparisons of `studies.strategies.claims`, with their rule of two standard errors, and into checks: a
figure against the most that the claim allows, with how sure the figure is:

    figure + uncertainty <= most    holds
    figure - uncertainty > most     does not hold
    otherwise                       cannot be told
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from nas.plots import style
from nas.stages.pipelines import Pipeline
from nas.tracking.session import StageRun
from studies.strategies import claims
from studies.strategies.claims import FAILS, HOLDS, OPEN, Comparison

NATS, POINTS = "nats", claims.POINTS
DIGITS = {**claims.DIGITS, NATS: 4}  # shown after the point, 2 in other units
SMALL = 1e-4  # a smaller fraction is shown by its power of ten
HOW = """\
A *comparison* says that A is higher than B. It has pairs, such as runs with the same seed; the mean of the differences A - B is set \
against its standard error (standard deviation with n - 1, over √n). It **holds** from two standard errors above zero on, **does not \
hold** from two below on, and else, or with a single pair, **cannot be told**.

A *check* says that a figure is so much at most. It **holds** if that is so with the uncertainty added, **does not hold** if it is not so \
with the uncertainty taken off, and else **cannot be told**.

A claim has the verdict of its parts if they agree, else the counts are given."""
LIMITS = (
    "Two standard errors are a lenient bar: with three pairs normal noise alone passes it, one way or the other, 18 times in 100.",
    '"Cannot be told" does not say that there is no difference, only that this comparison does not show it.',
)


@dataclass(frozen=True)
class Check:
    """A figure, which the claim says is so much at most; fractions."""

    name: str
    figure: float
    most: float
    uncertainty: float = 0.0
    beside: str = ""  # why it cannot be told, whatever the figure

    @property
    def verdict(self) -> str:
        if self.beside or not np.isfinite(self.figure):
            return OPEN
        if self.figure + self.uncertainty <= self.most:
            return HOLDS
        return FAILS if self.figure - self.uncertainty > self.most else OPEN


@dataclass(frozen=True)
class Claim(claims.Claim):
    """Something a paper says, and what tests it."""

    comparisons: tuple[Comparison | Check, ...]


def as_measured(rows: pd.DataFrame, names: Sequence[str], most: float) -> tuple[Check, ...]:
    """A check a row: measured as the table says, to so much of it; uncertain by as much as two measurements differ."""
    off = (rows["measured_latency_ms"] / rows["table_latency_ms"] - 1).abs()
    return tuple(Check(name, o, most, noise) for name, o, noise in zip(names, off, rows["noise_floor"]))


def paired(name: str, unit: str, a: pd.Series, b: pd.Series, paper: str = "") -> Comparison:
    """A over B in pairs: rows that have the same index, whose pairs are numbered from 1."""
    a, b = a.align(b, join="inner")
    return Comparison(name, unit, tuple(range(1, 1 + len(a))), tuple(a.tolist()), tuple(b.tolist()), paper)


def claim_rows(judged: Sequence[Claim]) -> pd.DataFrame:
    """claim, claim_verdict, part, unit, a (a check's figure), b (what is the most), difference, uncertainty, verdict."""
    rows = []
    for claim in judged:
        for part in claim.comparisons:
            if isinstance(part, Check):
                figures = ("fraction", part.figure, part.most, part.figure - part.most, part.uncertainty)
            else:
                figures = (part.unit, np.mean(part.a), np.mean(part.b), part.mean, part.standard_error)
            rows.append((claim.key, claim.verdict, part.name, *figures, part.verdict))
    return pd.DataFrame(rows, columns=["claim", "claim_verdict", "part", "unit", "a", "b", "difference", "uncertainty", "verdict"])


@dataclass(frozen=True)
class Page:
    """A page on the claims of a paper, written by the stage report of a pipeline."""

    path: Path
    pipeline: Pipeline
    title: str
    introduction: str
    paper: Mapping[str, str]  # what the paper ran, beside what was run
    limits: Sequence[str]  # before those of LIMITS

    def write(self, judged: Sequence[Claim], told: Mapping[str, str], charts: Sequence[style.Chart], run: StageRun, out: Path) -> None:
        """The page; into the stage's folder, and into MLflow, its figures, claims.csv and metrics.json, which counts the verdicts.

        Args:
            told: what was run; those named as in `paper` get the paper's beside them.
        """
        for chart in charts:
            style.save(style.image(chart), out / f"{chart.key}.png")
            run.artifact(out / f"{chart.key}.png", "plots")
        rows = claim_rows(judged)
        rows.to_csv(out / "claims.csv", index=False, float_format="%.6g")
        run.table(rows, "claims.json")
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(self.text(judged, told))
        run.artifact(self.path)
        counts = Counter(rows["verdict"])
        self.pipeline.finish(out, {verdict.replace(" ", "_"): counts[verdict] for verdict in (HOLDS, FAILS, OPEN)}, run)
        run.close_pipeline()

    def text(self, judged: Sequence[Claim], told: Mapping[str, str]) -> str:
        """Markdown; the same claims and facts give the same text."""
        figures, shown = f"../{self.pipeline.outputs}/report", set()
        parts = [
            f"# {self.title}",
            f"{self.introduction} The page is written from the results by the stage `report` of `{self.pipeline.folder}/dvc.yaml`: change "
            "the runs, not the page.",
            "## In short\n\n" + markdown(("claim", "in words", "verdict"), [(_link(c), c.statement, f"**{c.verdict}**") for c in judged]),
            "## What was run\n\n" + markdown(("", "here", "the paper"), [(n, text, self.paper.get(n, "")) for n, text in told.items()]),
            f"## How a verdict is reached\n\n{HOW}",
            "## Claim by claim",
            *(_section(claim, figures, shown) for claim in judged),
            "## Limits\n\n" + "\n".join(f"- {limit}" for limit in (*self.limits, *LIMITS)),
        ]
        return "\n\n".join(parts) + "\n"


def _section(claim: Claim, figures: str, shown: set[str]) -> str:
    """`shown` gathers the images that are on the page already."""
    points = {
        "Source": f"{claim.source}.",
        "The paper's figure": f"{claim.paper}." if claim.paper else "",
        "Tested here": claim.judged,
        "Found besides": claim.found,
        "Verdict": f"**{claim.verdict}**.",
    }
    listed = "\n".join(f"- {name}: {text}" for name, text in points.items() if text)
    parts = [f"### {_title(claim)}", claim.statement, listed]
    if checks := [c for c in claim.comparisons if isinstance(c, Check)]:
        parts.append(markdown(("check", "figure", "at most", "uncertainty", "verdict"), [_check(c) for c in checks]))
    if pairs := [c for c in claim.comparisons if isinstance(c, Comparison)]:
        parts.append(markdown(("A over B", "unit", "A", "B", "A - B, pair by pair", "mean ± se", "verdict"), [_pairs(c) for c in pairs]))
    if claim.figure and claim.figure not in shown:
        shown.add(claim.figure)
        parts.append(f"![{claim.key}]({figures}/{claim.figure}.png)")
    return "\n\n".join(parts)


def _check(check: Check) -> tuple[str, ...]:
    verdict = f"{check.verdict}: {check.beside}" if check.beside else check.verdict
    return check.name, *map(_percent, (check.figure, check.most, check.uncertainty)), verdict


def _pairs(c: Comparison) -> tuple[str, ...]:
    single, digits = len(c.seeds) < 2, DIGITS.get(c.unit, 2)
    mean = f"{c.mean:+.{digits}f}" if single else f"{c.mean:+.{digits}f} ± {c.standard_error:.{digits}f}"
    differences = ", ".join(f"{d:+.{digits}f}" for d in c.differences)
    verdict = f"{c.verdict} (one pair)" if single else c.verdict
    return c.name, c.unit, f"{np.mean(c.a):.{digits}f}", f"{np.mean(c.b):.{digits}f}", differences, mean, verdict


def _percent(value: float) -> str:
    return f"{100 * value:.{'1e' if 0 < abs(value) < SMALL else '2f'}} %"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *rows))


def _title(claim: Claim) -> str:
    return claim.key[0].upper() + claim.key[1:]


def _link(claim: Claim) -> str:
    return f"[{_title(claim)}](#{claim.key.replace(',', '').replace(' ', '-')})"
