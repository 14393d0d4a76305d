"""Stage report of the comparison: every figure with its data, the claims judged, and two pages.

    python -m studies.strategies.report

reads    the outputs of all other stages of studies/strategies/dvc.yaml
writes   report/figure_4 to figure_9, fronts, inherited, table_3   .png, and .csv with the data (AttentiveNAS's numbers)
         report/alphanet_9, alphanet_10                            the same of distillation losses
         report/ranks.csv       Kendall's tau of each panel of Figures 4 and 7, each seed
         report/claims.csv      a row a comparison
         report/index.html      everything on one page that opens offline
         summary.json           per strategy: seeds, mean and standard deviation of hypervolume, top1_low, top1_best;
                                below `distillations` the same per distillation loss
         docs/strategies.md     the claims of the papers, one by one
"""

from pathlib import Path

import numpy as np
import pandas as pd

from nas.cost import flops
from nas.cost.table import CostTable
from nas.data import loader
from nas.data.dataset import open_dataset
from nas.plots import style
from nas.runtime import seeding
from nas.runtime.io import read_json, read_table
from nas.sampling.exact import ExactSampler
from nas.sampling.factorised import trials_study
from nas.sampling.target import Prior
from nas.spaces import FOLDER, mbconv
from nas.stages import runner as main_pipeline
from nas.stages import split
from nas.stages.errors import user_errors
from nas.training.losses import KL, DistillationLoss
from studies.strategies import buckets, claims, comparison, config, deployments, distillation, ranks
from studies.strategies import inherited as inherited_charts
from studies.strategies import spaces as space_charts

PAGE = Path("docs/strategies.md")
AGAIN = "dvc repro --force studies/strategies/dvc.yaml"
STEP = 25  # MFLOPs, of AttentiveNAS's own space in Figure 8
CLASSES = 1000  # there
FINAL = ("hypervolume", "top1_low", "top1_best")


def main() -> None:
    s = config.read()
    parameters = s.sections("strategies", "distillations", "losses", "seeds", "space", "wide_space", "train", "measure", "report")
    with config.stage("report", "", parameters, "report", shares=True) as (run, _, out):
        data = open_dataset(split.OUT)
        table, wide_table = (flops.table(searched, len(data.classes)) for searched in (s.space, s.wide_space))
        runs = all_runs("train", s.strategies, s.seeds)
        finals = final_figures("train", s.strategies, s.seeds)
        summary = over_seeds(finals)
        losses = ablation(s, runs, finals)
        by_seed = {seed: ranked(seed) for seed in s.seeds}
        studies = [study(s.report, seed) for seed in s.seeds]
        both = two_spaces(s, runs)
        largest = max(table.largest, wide_table.largest)
        models = scratch(s)
        results = claims.Results(
            edges=config.edges(table, s.measure.buckets),
            runs=runs,
            finals=finals,
            ranks=ranks.table(by_seed),
            trials=mean_trials(studies, s.seeds),
            spaces=space_charts.hypervolumes(both, largest, 100 / len(data.classes)).replace(
                {"space": {s.space.name: "deep", s.wide_space.name: "wide"}}
            ),
            models=models,
            losses=losses,
        )
        judged = claims.judge(results)
        found = comparison.Findings(
            runs=runs,
            edges=results.edges,
            summary=summary,
            ranks=by_seed,
            trials=studies[0],
            spaces=both,
            methods=methods(s),
            models=models,
            losses=losses,
            losses_summary=over_seeds(losses.finals),
            claims=judged,
        )
        for name, drawn in comparison.charts(found).items():
            style.save(style.image(*drawn), out / f"{name}.png")
        for name, frame in tables(found).items():
            frame.to_csv(out / f"{name}.csv", index=False, float_format="%.6g")
        (out / "index.html").write_text(comparison.page(found))
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(claims.page(judged, facts(s, data, table, wide_table, runs)))
        distilled = over_seeds(final_figures("distill", s.distillations, s.seeds))
        main_pipeline.write_json(config.OUTPUTS / "summary.json", nested(summary) | {"distillations": nested(distilled)})

        run.artifact(out / "index.html")
        run.artifact(PAGE)
        for path in sorted(out.glob("*.png")):
            run.artifact(path, "plots")
        run.table(summary, "summary.json")
        run.table(distilled, "distillations.json")
        run.table(claims.table(judged), "claims.json")
        run.summary(means(summary), "mean")
        run.summary(means(distilled), "mean/distillations")
        print(comparison.summary_table(summary).to_string(index=False))
        print(comparison.summary_table(distilled, "distillation").to_string(index=False), flush=True)
        run.close_pipeline()


def made(stage: str, key: str, name: str) -> Path:
    """A file that another stage wrote.

    Raises:
        FileNotFoundError: if it is not there; says what makes it.
    """
    path = config.OUTPUTS / stage / key / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; `dvc repro {config.PIPELINE}/dvc.yaml:{stage}@{key}` makes it")
    return path


def all_runs(stage: str, names: tuple[str, ...], seeds: tuple[int, ...]) -> pd.DataFrame:
    """Everything evaluated by `train` (names: strategies) or `distill` (losses): strategy (a name), seed, mflops, top1 (percent), round."""
    parts = [evaluated(stage, f"{name}-{seed}").assign(strategy=name, seed=seed) for name in names for seed in seeds]
    return pd.concat(parts, ignore_index=True)


def evaluated(stage: str, key: str) -> pd.DataFrame:
    """mflops, top1 (percent), round of one run."""
    return read_table(made(stage, key, "evaluated.parquet"), AGAIN)[["mflops", "top1", "round"]]


def final_figures(stage: str, names: tuple[str, ...], seeds: tuple[int, ...]) -> pd.DataFrame:
    """strategy (a name, as for `all_runs`), seed, hypervolume, top1_low, top1_best (percent): what each run wrote itself."""
    rows = []
    for name in names:
        for seed in seeds:
            found = read_json(made(stage, f"{name}-{seed}", "metrics.json"))
            rows.append({"strategy": name, "seed": seed} | {figure: found[figure] for figure in FINAL})
    return pd.DataFrame(rows)


def ablation(s: config.Settings, runs: pd.DataFrame, finals: pd.DataFrame) -> distillation.Ablation:
    """The runs of `distill` under names that say what differs, setting by setting; uniform's with the loss of `recipe` come first.

    Args:
        s: the parameters.
        runs: of the strategies, as from `all_runs`.
        finals: theirs, as from `final_figures`.
    """
    base, *others = s.distillations
    settings: dict[str, dict[str, str]] = {}  # key -> distillation -> what it is called
    for name in others:
        ((key, value),) = config.differences(s.losses[base], s.losses[name]).items()
        settings.setdefault(key, {})[name] = f"{key} {in_words(value)}"
    names = {base: base} | {name: words for called in settings.values() for name, words in called.items()}
    uniform = s.strategies[0]

    def joined(of_strategies: pd.DataFrame, of_losses: pd.DataFrame) -> pd.DataFrame:
        reference = of_strategies[of_strategies["strategy"] == uniform].assign(strategy=reference_name(s))
        return pd.concat([reference, of_losses.assign(strategy=of_losses["strategy"].map(names))], ignore_index=True)

    ordered = tuple(names)
    return distillation.Ablation(
        base,
        tuple(
            distillation.Setting(key, in_words(getattr(s.losses[base], key)), tuple(called.values())) for key, called in settings.items()
        ),
        joined(runs, all_runs("distill", ordered, s.seeds)),
        joined(finals, final_figures("distill", ordered, s.seeds)),
    )


def reference_name(s: config.Settings) -> str:
    """What the loss of `recipe` is called: KL if it is that and otherwise as the losses it stands beside, else by its strategy."""
    loss, base = s.recipe.distillation, s.losses[s.distillations[0]]
    alike = (loss.temperature, loss.weight) == (base.temperature, base.weight)
    return distillation.KL if isinstance(loss, KL) and alike else s.strategies[0]


def in_words(value: float | None) -> str:
    """A value of a loss: -0.5, 2, none."""
    return "none" if value is None else f"{value:g}"


def over_seeds(finals: pd.DataFrame) -> pd.DataFrame:
    """strategy, seeds (how many), <figure>_mean and <figure>_std (n - 1; NaN for one seed)."""
    groups = finals.groupby("strategy", sort=False)
    found = {"seeds": groups.size()}
    for name in FINAL:
        found |= {f"{name}_mean": groups[name].mean(), f"{name}_std": groups[name].std(ddof=1)}
    return pd.DataFrame(found).reset_index()


def means(summary: pd.DataFrame) -> dict[str, float]:
    """<strategy>/<figure> -> mean over the seeds, for MLflow."""
    return {f"{row['strategy']}/{name}": row[f"{name}_mean"] for row in summary.to_dict("records") for name in FINAL}


def nested(summary: pd.DataFrame) -> dict:
    """For summary.json; the deviation over one seed is null."""

    def number(value: float) -> float | None:
        return round(float(value), 6) if np.isfinite(value) else None

    return {
        row["strategy"]: {"seeds": int(row["seeds"])}
        | {name: {"mean": number(row[f"{name}_mean"]), "std": number(row[f"{name}_std"])} for name in FINAL}
        for row in summary.to_dict("records")
    }


def ranked(seed: int) -> pd.DataFrame:
    """mflops, part, predicted, early, final (percent) of the sub-networks measured for the predictor."""
    early = read_table(made("pretrain", str(seed), "measured.parquet"), AGAIN)
    final = read_table(made("continued", str(seed), "measured.parquet"), AGAIN)
    return early.rename(columns={"top1": "early"})[["mflops", "part", "predicted", "early"]].assign(final=final["top1"])


def study(p: config.Report, seed: int) -> pd.DataFrame:
    """Trials per sample by cost target on AttentiveNAS's own space, whose figure the paper gives; it takes no training."""
    table = flops.table(mbconv.load(FOLDER / "attentive_nas.yaml"), CLASSES)
    return trials_study(table, STEP, p.pool, p.trial_samples, seeding.generator(seed, "report", "trials"))


def mean_trials(studies: list[pd.DataFrame], seeds: tuple[int, ...]) -> pd.DataFrame:
    """seed, uniform, proposal, exact: means over the targets that the proposal's pool met."""
    means = [found.dropna().mean() for found in studies]
    rows = [(seed, m["uniform"], m["paper_mean"], m["exact"]) for seed, m in zip(seeds, means)]
    return pd.DataFrame(rows, columns=["seed", "uniform", "proposal", "exact"])


def two_spaces(s: config.Settings, runs: pd.DataFrame) -> pd.DataFrame:
    """space, seed, mflops, top1 (percent): uniform sampling on both spaces."""
    deep = runs[runs["strategy"] == s.strategies[0]].assign(space=s.space.name)
    wide = [evaluated("wide", str(seed)).assign(space=s.wide_space.name, seed=seed) for seed in s.seeds]
    return pd.concat([deep, *wide], ignore_index=True)[["space", "seed", "mflops", "top1"]]


def scratch(s: config.Settings) -> pd.DataFrame:
    """seed, model, mflops, top1_inherited, top1_scratch (percent)."""
    parts = [read_table(made("scratch", str(seed), "models.csv"), AGAIN).assign(seed=seed) for seed in s.seeds]
    return pd.concat(parts, ignore_index=True)


def methods(s: config.Settings) -> list[deployments.Method]:
    """What N networks cost by each strategy, trained alone, and as published."""
    found = []
    for name in s.strategies:
        form, _, _ = config.form(name)
        counts = deployments.Counts(
            epochs=s.train.epochs,
            trained=2 + s.recipe.sampled,
            forwarded=form.k * s.recipe.sampled if form.by == "loss" else 0,
            pretraining_epochs=s.pretrain.epochs if form.needs_predictor else 0,
        )
        found.append(deployments.supernet(name, counts))
    return [*found, deployments.alone(s.train.epochs), *deployments.PUBLISHED]


def tables(found: comparison.Findings) -> dict[str, pd.DataFrame]:
    """The data of each figure by the name of its file."""
    gains = buckets.spread(buckets.gains(found.runs, found.edges))
    wide = gains.pivot(index=["low", "high"], columns="strategy", values=["gain", "gain_sd"])
    wide.columns = [name if kind == "gain" else f"{name}_sd" for kind, name in wide.columns]
    return {
        "figure_4": by_column(ranks.points(found.ranks, "4"), "figure", "y"),
        "figure_5": by_column(buckets.boxes(found.runs, found.edges), "strategy", "median"),
        "figure_6": wide.reset_index(),
        "fronts": buckets.fronts(found.runs),
        "figure_7": by_column(ranks.points(found.ranks, "7"), "figure", "y"),
        "figure_8": found.trials,
        "figure_9": by_column(space_charts.fronts(found.spaces), "space", "top1"),
        "table_3": by_column(deployments.costs(found.methods), "method", "cost"),
        "inherited": inherited_charts.differences(found.models),
        **{name: boxes_of_losses(found, name) for name in distillation.figures(found.losses)},
        "ranks": ranks.table(found.ranks),
        "claims": claims.table(found.claims),
    }


def boxes_of_losses(found: comparison.Findings, figure: str) -> pd.DataFrame:
    """The data of one of AlphaNet's figures."""
    runs = distillation.shown(found.losses, distillation.figures(found.losses)[figure])
    return by_column(buckets.boxes(runs, found.edges), "strategy", "median").rename(columns={"strategy": "loss"})


def targets(table: CostTable, s: config.Settings) -> str:
    """How often the ends of the range of cost are asked for: from the prior, and flat."""
    prior, bounds = ExactSampler(table, s.train.bucket_mflops).prior(), config.edges(table, s.measure.buckets)

    def words(drawn: Prior) -> str:
        shares = np.histogram(np.clip(drawn.targets, bounds[0], bounds[-1]), bounds, weights=drawn.probabilities)[0]
        return f"{shares[0]:.1%} in the cheapest bucket, {shares[-1]:.1%} in the most expensive"

    return f"from the prior {words(prior)}; flat {words(prior.flat())}"


def distilled_by(s: config.Settings) -> str:
    """Every loss in words: that of the strategies, and those that stand beside it."""

    def said(loss: DistillationLoss) -> str:
        return ", ".join([loss.loss, *(f"{key} {in_words(value)}" for key, value in loss.model_dump(exclude={"loss"}).items())])

    base, *others = s.distillations
    changed = [f"{k} {in_words(v)}" for name in others for k, v in config.differences(s.losses[base], s.losses[name]).items()]
    told = f"strategies: {said(s.recipe.distillation)}; {base}: {said(s.losses[base])}"
    return told + (f"; and that with one change: {', '.join(changed)}" if changed else "")


def by_column(frame: pd.DataFrame, key: str, value: str) -> pd.DataFrame:
    """The same rows with a column more for each `key`, which repeats `value` in that key's rows: DVC draws a series a column."""
    return frame.assign(**{str(name): frame[value].where(frame[key] == name) for name in frame[key].unique()})


def facts(s: config.Settings, data: loader.ImageDataset, table: CostTable, wide: CostTable, runs: pd.DataFrame) -> dict[str, object]:
    """What was run, for the page of claims."""
    images = len(data.indices("train", "predictor"))
    steps = s.train.epochs * (images // s.recipe.batch)
    each = runs.groupby(["strategy", "seed"]).size()
    return {
        "data": f"{data.title}, {len(data.classes)} classes",
        "images": f"{images:,} to train on, {len(data.indices('search')):,} to measure on, {len(data.indices('test')):,} for testing",
        "space": f"{s.space.name}: {s.space.size:,} architectures, {table.smallest:.3f} to {table.largest:.3f} MFLOPs",
        "wide space": f"{s.wide_space.name}: {s.wide_space.size:,} architectures, {wide.smallest:.3f} to {wide.largest:.3f} MFLOPs",
        "cost targets": targets(table, s),
        "strategies": list(s.strategies),
        "distillation losses": distilled_by(s),
        "seeds": list(s.seeds),
        "epochs": f"{s.train.epochs}; early: {s.pretrain.epochs}, then {s.continued.epochs} more",
        "steps": f"{steps:,} (batches of {s.recipe.batch})",
        "evaluations": (f"{each.min():,}" if each.min() == each.max() else f"{each.min():,} to {each.max():,}") + " a strategy and seed",
    }


if __name__ == "__main__":
    user_errors(main)
