"""Claims of papers: the statistics behind a verdict, the table of verdicts, and a page in Markdown.

A claim is tested by comparisons and checks. A comparison states that A is higher than B; it has one difference A - B per pair, such
as two runs with the same seed, their mean m and its standard error se = sd / sqrt(n), sd with n - 1. A check states that an amount is
at most a limit. Both have a margin, positive where the claim is right, and an uncertainty of it:

                  margin            uncertainty
    comparison    m                 2 se
    check         limit - amount    that of the amount

Every verdict is that of `verdict`. The papers show single runs; pairs and standard errors are this project's.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from nas.plots import style
from nas.plots.style import Chart
from nas.stages.runner import Pipeline, Stage

SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE, NOT_RUN = "supported", "not supported", "inconclusive", "not run"
VERDICTS = (SUPPORTED, INCONCLUSIVE, NOT_SUPPORTED)  # in the order in which they are counted
STANDARD_ERRORS = 2  # between a mean and zero for a verdict
POINTS, TAU, AREA, TRIALS, NATS = "points of top-1", "tau", "hypervolume", "log10 of trials", "nats"
DECIMALS = {TAU: 3, AREA: 4, NATS: 4}  # by unit; 2 in others
MIN_FRACTION = 1e-4  # a smaller fraction is written as a power of ten
METHOD = """\
A *comparison*, A over B, states that A is higher than B. It has pairs, such as runs with the same seed, and the mean of their \
differences A - B has a standard error (standard deviation with n - 1, over √n). It is **supported** from two standard errors above \
zero, **not supported** from two below, and **inconclusive** otherwise or with a single pair.

A *check* states that an amount is at most a limit. It is **supported** if this is so with the uncertainty added, **not supported** if \
it is not so with the uncertainty subtracted, and **inconclusive** otherwise.

A claim has the verdict of its comparisons and checks if they agree; otherwise the verdicts are counted."""
STATISTICS = (  # limits of every page with few pairs
    "Two standard errors are a lenient threshold: with three pairs normal noise alone passes it in either direction 18 times in 100.",
    "An inconclusive comparison does not show that there is no difference: a difference of its size needs more pairs.",
)


def verdict(margin: float, uncertainty: float) -> str:
    """Verdict on a statement whose margin is positive where it is right.

    margin >= uncertainty     supported
    margin <= -uncertainty    not supported
    otherwise                 inconclusive, as where the margin is 0 or either is NaN or infinite
    """
    if not np.isfinite([margin, uncertainty]).all() or margin == 0 or abs(margin) < uncertainty:
        return INCONCLUSIVE
    return SUPPORTED if margin > 0 else NOT_SUPPORTED


def combined(verdicts: Iterable[str]) -> str:
    """The verdict if all agree, else their counts, as in "supported in 3 of 6, inconclusive in 3"; "not run" without any."""
    counts = Counter(verdicts)
    if len(counts) < 2:
        return next(iter(counts), NOT_RUN)
    first, *others = [f"{word} in {counts[word]}" for word in VERDICTS if counts[word]]
    return ", ".join([f"{first} of {counts.total()}", *others])


def mean_and_error(differences: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean and its standard error, sd (n - 1) / sqrt(n), of differences (n,); the error of a single one is NaN."""
    return float(np.mean(differences)), deviation(differences) / float(np.sqrt(len(differences)))


def deviation(values: Sequence[float] | np.ndarray) -> float:
    """Sample standard deviation (n - 1) of values (n,); NaN for a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def chance_of_verdict(pairs: int) -> float:
    """How often differences of nothing but normal noise are decided: Student's t beyond two standard errors, both tails."""
    return float(2 * stats.t.sf(STANDARD_ERRORS, pairs - 1))


@dataclass(frozen=True)
class Comparison:
    """ "A over B": values of A and B in pairs, in one unit; the claim is that A is higher."""

    name: str
    unit: str
    pairs: tuple[int, ...]  # seeds, or numbers from 1 on
    a: tuple[float, ...]  # a value per pair
    b: tuple[float, ...]
    published: str = ""  # the paper's figure for this comparison

    @property
    def differences(self) -> tuple[float, ...]:
        """A - B per pair."""
        return tuple(a - b for a, b in zip(self.a, self.b))

    @property
    def mean(self) -> float:
        return mean_and_error(self.differences)[0]

    @property
    def standard_error(self) -> float:
        """Of the mean difference; NaN for one pair."""
        return mean_and_error(self.differences)[1]

    @property
    def verdict(self) -> str:
        return verdict(self.mean, STANDARD_ERRORS * self.standard_error)


@dataclass(frozen=True)
class Check:
    """An amount and the limit that the claim sets it; fractions."""

    name: str
    amount: float
    limit: float
    uncertainty: float = 0.0
    reason: str = ""  # for which it is inconclusive, whatever the amount

    @property
    def verdict(self) -> str:
        return INCONCLUSIVE if self.reason else verdict(self.limit - self.amount, self.uncertainty)


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, or beyond the papers, and the comparisons and checks that test it."""

    key: str  # e.g. "observation 1"
    source: str  # paper and section
    statement: str
    test: str  # what is compared with what
    parts: tuple[Comparison | Check, ...]
    published: str = ""  # the paper's figures
    figure: str = ""  # name of the image that shows it
    remark: str = ""  # further results that the parts do not show

    @property
    def verdict(self) -> str:
        return combined(part.verdict for part in self.parts)

    @property
    def title(self) -> str:
        return self.key[0].upper() + self.key[1:]

    @property
    def link(self) -> str:
        """Markdown link to its section of the page."""
        slug = "".join(c for c in self.key.lower() if c.isalnum() or c in " -_").replace(" ", "-")
        return f"[{self.title}](#{slug})"


def paired(name: str, unit: str, a: pd.Series, b: pd.Series, published: str = "") -> Comparison:
    """A over B in pairs: rows of the same index; pairs are numbered from 1."""
    a, b = a.align(b, join="inner")
    return Comparison(name, unit, tuple(range(1, 1 + len(a))), tuple(a.tolist()), tuple(b.tolist()), published)


def latency_checks(rows: pd.DataFrame, names: Sequence[str], limit: float) -> tuple[Check, ...]:
    """A check per row: the measured latency deviates from the table's by at most this fraction; uncertain by the noise floor."""
    deviations = (rows["measured_latency_ms"] / rows["table_latency_ms"] - 1).abs()
    return tuple(Check(name, d, limit, noise) for name, d, noise in zip(names, deviations, rows["noise_floor"]))


def claim_rows(claims: Sequence[Claim]) -> pd.DataFrame:
    """claim, claim_verdict, part, unit, a (of a check the amount), b (the limit), difference, uncertainty, verdict; a row per part."""
    rows = []
    for claim in claims:
        for part in claim.parts:
            if isinstance(part, Check):
                numbers = ("fraction", part.amount, part.limit, part.amount - part.limit, part.uncertainty)
            else:
                numbers = (part.unit, np.mean(part.a), np.mean(part.b), part.mean, part.standard_error)
            rows.append((claim.key, claim.verdict, part.name, *numbers, part.verdict))
    return pd.DataFrame(rows, columns=["claim", "claim_verdict", "part", "unit", "a", "b", "difference", "uncertainty", "verdict"])


def verdict_counts(claims: Sequence[Claim]) -> dict[str, int]:
    """Metrics of a report: comparisons and checks of all claims by verdict, e.g. {"not_supported": 3}."""
    counts = Counter(part.verdict for claim in claims for part in claim.parts)
    return {word.replace(" ", "_"): counts[word] for word in (SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE)}


@dataclass(frozen=True)
class Page:
    """A page on the claims of a paper, written by the stage report of a study."""

    study: Pipeline
    title: str
    introduction: str
    published: Mapping[str, str]  # what the paper ran, by the names of the facts
    limits: Sequence[str]
    pairs: str = ""  # what the pairs of this study's comparisons are

    @property
    def file(self) -> Path:
        """Markdown, from the project's root."""
        return Path("docs") / f"{self.study.name.removesuffix('_claims')}.md"

    def write(self, claims: Sequence[Claim], facts: Mapping[str, object], charts: Sequence[Chart], stage: Stage) -> None:
        """The page, its figures and claims.csv into the stage's folder, and all of it into MLflow."""
        for chart in charts:
            style.save(style.image(chart), stage.out / f"{chart.key}.png")
            stage.run.artifact(stage.out / f"{chart.key}.png", "plots")
        rows = claim_rows(claims)
        rows.to_csv(stage.out / "claims.csv", index=False, float_format="%.6g")
        stage.run.table(rows, "claims.json")
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text(self.text(claims, facts))
        stage.run.artifact(self.file)

    def text(self, claims: Sequence[Claim], facts: Mapping[str, object]) -> str:
        """Markdown; the same claims and facts give the same text.

        Args:
            facts: what was run, in the order of the page: texts, numbers or lists.
        """
        figures = f"../{self.study.out('report')}"
        summary = [(claim.link, claim.statement, f"**{claim.verdict}**") for claim in claims]
        run = [(name, _fact(value), self.published.get(name, "")) for name, value in facts.items()]
        first = {claim.figure: claim.key for claim in reversed(claims) if claim.parts}  # the claim that shows the figure
        return document(
            f"# {self.title}",
            f"{self.introduction} The stage `report` of `{self.study.folder}/dvc.yaml` writes this page from the results: change the "
            "runs, not the page.",
            "## Summary",
            markdown(("claim", "statement", "verdict"), summary),
            "## What was run",
            markdown(("", "this study", "the paper"), run),
            "## How a verdict is reached",
            METHOD,
            self.pairs,
            "## Claim by claim",
            *(_section(claim, figures, first.get(claim.figure) == claim.key) for claim in claims),
            "## Limits",
            "\n".join(f"- {limit}" for limit in self.limits),
        )


def document(*parts: str) -> str:
    """Paragraphs of Markdown as a text; empty ones are left out."""
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = (header, ["---"] * len(header), *rows)
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _section(claim: Claim, figures: str, shows_figure: bool) -> str:
    items = {
        "Source": f"{claim.source}.",
        "Published": f"{claim.published}." if claim.published else "",
        "Test": claim.test,
        "Verdict": f"**{claim.verdict}**.",
        "Further results": claim.remark,
    }
    image = f"{claim.figure.replace('_', ' ').capitalize().replace('Alphanet', 'AlphaNet Figure')}]({figures}/{claim.figure}.png)"
    return document(
        f"### {claim.title}",
        claim.statement,
        "\n".join(f"- {name}: {text}" for name, text in items.items() if text),
        "" if claim.parts else "None of the runs that it compares exists.",
        _checks([part for part in claim.parts if isinstance(part, Check)]),
        _comparisons([part for part in claim.parts if isinstance(part, Comparison)]),
        "" if not claim.figure or not claim.parts else f"![{image}" if shows_figure else f"[{image}, shown above.",
    ).rstrip()


def _checks(checks: Sequence[Check]) -> str:
    def percent(value: float) -> str:
        return f"{100 * value:.{'1e' if 0 < abs(value) < MIN_FRACTION else '2f'}} %"

    rows = []
    for check in checks:
        verdict_text = f"{check.verdict}: {check.reason}" if check.reason else check.verdict
        rows.append((check.name, *map(percent, (check.amount, check.limit, check.uncertainty)), verdict_text))
    return markdown(("check", "amount", "at most", "uncertainty", "verdict"), rows) if rows else ""


def _comparisons(comparisons: Sequence[Comparison]) -> str:
    """A table per unit; the column "published" only where the paper gives a figure."""
    tables = []
    for unit in dict.fromkeys(c.unit for c in comparisons):
        of_unit = [c for c in comparisons if c.unit == unit]
        header = ["A over B", "A (sd)", "B (sd)", "A - B by pair", "mean ± se", "verdict"]
        rows = [_cells(c, DECIMALS.get(unit, 2)) for c in of_unit]
        if any(c.published for c in of_unit):
            header.append("published")
            rows = [[*row, c.published] for row, c in zip(rows, of_unit)]
        pairs = sorted({pair for c in of_unit for pair in c.pairs})
        label = "pairs" if len(pairs) > 1 else "pair"
        tables.append(f"In {unit}; {label} {', '.join(map(str, pairs))}:\n\n{markdown(header, rows)}")
    return "\n\n".join(tables)


def _cells(c: Comparison, decimals: int) -> list[str]:
    def signed(value: float) -> str:
        return f"{value:+z.{decimals}f}"

    def with_deviation(values: Sequence[float]) -> str:
        mean = f"{np.mean(values):.{decimals}f}"
        return f"{mean} ({deviation(values):.{decimals}f})" if len(values) > 1 else mean

    differences, single = ", ".join(map(signed, c.differences)), len(c.pairs) < 2
    mean = signed(c.mean) if single else f"{signed(c.mean)} ± {c.standard_error:.{decimals}f}"
    return [c.name, with_deviation(c.a), with_deviation(c.b), differences, mean, f"{c.verdict} (one pair)" if single else c.verdict]


def _fact(value: object) -> str:
    if isinstance(value, str):
        return value
    return ", ".join(map(_fact, value)) if isinstance(value, Sequence) else f"{value:,}"
