"""Stage report of the comparison: every figure with its data, the verdicts on the claims, and two pages.

    python -m studies.strategies.report

reads    the outputs of all other stages of studies/strategies/dvc.yaml
writes   report/figure_4 to figure_9, fronts, inherited, table_3   .png, and .csv with the data (AttentiveNAS's numbers)
         report/alphanet_9, alphanet_10                            the same of distillation losses
         report/ranks.csv       Kendall's tau of each panel of Figures 4 and 7, each seed
         report/claims.csv      a row per comparison
         report/index.html      everything on one page that opens offline
         summary.json           per strategy: seeds, mean and standard deviation of hypervolume, top1_low, top1_best;
                                below `distillations` the same per distillation loss
         docs/strategies.md     the claims of the papers, one by one
"""

import numpy as np
import pandas as pd

from nas.cost import flops
from nas.cost.table import CostTable
from nas.data.dataset import ImageDataset, open_dataset
from nas.plots import style
from nas.sampling.exact import ExactSampler
from nas.sampling.target import Prior
from nas.stages import runner
from nas.tracking.runs import StageRun
from nas.training.losses import DistillationLoss
from studies.strategies import charts, claims, config, deployments, html_page, ranks, results
from studies.strategies.claims_page import page_of
from studies.strategies.comparisons import Results, bucket_edges, figures_of, runs_of
from studies.strategies.config import StrategiesParams
from studies.strategies.html_page import Content


def main() -> None:
    cfg = config.read()
    parameters = cfg.sections("strategies", "distillations", "losses", "seeds", "space", "wide_space", "train", "measure", "report")
    with runner.stage("report", parameters, config.PIPELINE, title="report") as stage:
        run, out = stage.run, stage.out
        data = open_dataset(runner.out("split"))
        table, wide_table = (flops.table(space, len(data.classes)) for space in (cfg.space, cfg.wide_space))
        content = collect(cfg, table, wide_table, len(data.classes))
        for name, drawn in html_page.figures(content).items():
            style.save(style.image(*drawn), out / f"{name}.png")
        for name, frame in tables(content).items():
            frame.to_csv(out / f"{name}.csv", index=False, float_format="%.6g")
        (out / "index.html").write_text(html_page.page(content))
        page = page_of(content.claims)
        page.file.parent.mkdir(exist_ok=True)
        page.file.write_text(page.text(content.claims, facts(cfg, data, table, wide_table, content.runs)))
        distilled = results.over_seeds(results.final_metrics("distill", cfg.distillations, cfg.seeds))
        summary = results.summary_json(content.summary) | {"distillations": results.summary_json(distilled)}
        runner.write_json(config.PIPELINE.outputs / "summary.json", summary)

        for path in (out / "index.html", page.file):
            run.artifact(path)
        for path in sorted(out.glob("*.png")):
            run.artifact(path, "plots")
        run.table(claims.table(content.claims), "claims.json")
        log_summaries(content.summary, distilled, run)


def log_summaries(strategies: pd.DataFrame, distilled: pd.DataFrame, run: StageRun) -> None:
    """Both summaries to MLflow and to the terminal."""
    run.table(strategies, "summary.json")
    run.table(distilled, "distillations.json")
    run.summary(results.summary_metrics(strategies), "mean")
    run.summary(results.summary_metrics(distilled), "mean/distillations")
    print(html_page.summary_table(strategies).to_string(index=False))
    print(html_page.summary_table(distilled, "distillation").to_string(index=False), flush=True)


def collect(cfg: StrategiesParams, table: CostTable, wide_table: CostTable, classes: int) -> Content:
    """The results of all stages and the verdicts on the claims."""
    runs = results.all_runs("train", cfg.strategies, cfg.seeds)
    finals = results.final_metrics("train", cfg.strategies, cfg.seeds)
    losses = results.ablation(cfg, runs, finals)
    accuracies = {seed: results.predictor_accuracies(seed) for seed in cfg.seeds}
    trials = [results.trials(cfg.report, seed) for seed in cfg.seeds]
    spaces, models = results.two_spaces(cfg, runs), results.scratch_models(cfg)
    areas = charts.space_hypervolumes(spaces, max(table.largest, wide_table.largest), 100 / classes)
    tested = Results(
        edges=bucket_edges(table, cfg.measure.buckets),
        runs=runs,
        finals=finals,
        ranks=ranks.table(accuracies),
        trials=results.mean_trials(trials, cfg.seeds),
        spaces=areas.replace({"space": {cfg.space.name: "deep", cfg.wide_space.name: "wide"}}),
        models=models,
        losses=losses,
    )
    return Content(
        runs=runs,
        edges=tested.edges,
        summary=results.over_seeds(finals),
        ranks=accuracies,
        trials=trials[0],
        spaces=spaces,
        methods=results.training_costs(cfg),
        models=models,
        losses=losses,
        losses_summary=results.over_seeds(losses.finals),
        claims=claims.all_claims(tested),
    )


def tables(content: Content) -> dict[str, pd.DataFrame]:
    """The data of each figure by the name of its file."""
    gains = charts.mean_gains(charts.gains(content.runs, content.edges))
    wide = gains.pivot(index=["low", "high"], columns="strategy", values=["gain", "gain_sd"])
    wide.columns = [name if kind == "gain" else f"{name}_sd" for kind, name in wide.columns]
    return {
        "figure_4": by_column(ranks.points(content.ranks, "4"), "figure", "y"),
        "figure_5": by_column(charts.box_quantiles(content.runs, content.edges), "strategy", "median"),
        "figure_6": wide.reset_index(),
        "fronts": charts.fronts(content.runs),
        "figure_7": by_column(ranks.points(content.ranks, "7"), "figure", "y"),
        "figure_8": content.trials,
        "figure_9": by_column(charts.fronts(content.spaces, "space"), "space", "top1"),
        "table_3": by_column(deployments.costs(content.methods), "method", "cost"),
        "inherited": charts.inherited_differences(content.models),
        **{name: loss_quantiles(content, name) for name in figures_of(content.losses)},
        "ranks": ranks.table(content.ranks),
        "claims": claims.table(content.claims),
    }


def loss_quantiles(content: Content, figure: str) -> pd.DataFrame:
    """The data of one of AlphaNet's figures."""
    runs = runs_of(content.losses, figures_of(content.losses)[figure])
    return by_column(charts.box_quantiles(runs, content.edges), "strategy", "median").rename(columns={"strategy": "loss"})


def by_column(frame: pd.DataFrame, key: str, value: str) -> pd.DataFrame:
    """The same rows with a further column per `key`, which repeats `value` in that key's rows: DVC plots a series per column."""
    return frame.assign(**{str(name): frame[value].where(frame[key] == name) for name in frame[key].unique()})


def target_shares(table: CostTable, cfg: StrategiesParams) -> str:
    """Share of the cost targets in the cheapest and the most expensive bucket: from the prior, and flat."""
    prior, bounds = ExactSampler(table, cfg.train.bucket_mflops).prior(), bucket_edges(table, cfg.measure.buckets)

    def text(targets: Prior) -> str:
        shares = np.histogram(np.clip(targets.targets, bounds[0], bounds[-1]), bounds, weights=targets.probabilities)[0]
        return f"{shares[0]:.1%} in the cheapest bucket, {shares[-1]:.1%} in the most expensive"

    return f"from the prior {text(prior)}; flat {text(prior.flat())}"


def losses_text(cfg: StrategiesParams) -> str:
    """Every loss in words: that of the strategies, the base of the ablation, and the single changes to it."""

    def text(loss: DistillationLoss) -> str:
        values = loss.model_dump(exclude={"loss"}).items()
        return ", ".join([loss.loss, *(f"{key} {results.value_text(value)}" for key, value in values)])

    base, *others = cfg.distillations
    pairs = [pair for name in others for pair in config.differences(cfg.losses[base], cfg.losses[name]).items()]
    changes = ", ".join(f"{key} {results.value_text(value)}" for key, value in pairs)
    both = f"strategies: {text(cfg.recipe.distillation)}; {base}: {text(cfg.losses[base])}"
    return both + (f"; and that with one change: {changes}" if changes else "")


def facts(cfg: StrategiesParams, data: ImageDataset, table: CostTable, wide: CostTable, runs: pd.DataFrame) -> dict[str, object]:
    """What was run, for the page of claims."""
    images = len(data.indices("train", "predictor"))
    steps = cfg.train.epochs * (images // cfg.recipe.batch)
    counts = runs.groupby(["strategy", "seed"]).size()
    evaluations = f"{counts.min():,}" if counts.min() == counts.max() else f"{counts.min():,} to {counts.max():,}"
    return {
        "data": f"{data.title}, {len(data.classes)} classes",
        "images": f"{images:,} for training, {len(data.indices('search')):,} for evaluation, {len(data.indices('test')):,} for testing",
        "space": f"{cfg.space.name}: {cfg.space.size:,} architectures, {table.smallest:.3f} to {table.largest:.3f} MFLOPs",
        "wide space": f"{cfg.wide_space.name}: {cfg.wide_space.size:,} architectures, {wide.smallest:.3f} to {wide.largest:.3f} MFLOPs",
        "cost targets": target_shares(table, cfg),
        "strategies": list(cfg.strategies),
        "distillation losses": losses_text(cfg),
        "seeds": list(cfg.seeds),
        "epochs": f"{cfg.train.epochs}; early: {cfg.pretrain.epochs}, then {cfg.continued.epochs} more",
        "steps": f"{steps:,} (batches of {cfg.recipe.batch})",
        "evaluations": f"{evaluations} per strategy and seed",
    }


if __name__ == "__main__":
    runner.execute(main)
