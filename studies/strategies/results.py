"""Outputs of the stages of the comparison, read and brought into the form of the claims and figures."""

from pathlib import Path

import numpy as np
import pandas as pd

from nas.cost import flops
from nas.runtime import seeding
from nas.runtime.io import read_json, read_table
from nas.sampling.factorised import trials_study
from nas.spaces import FOLDER, mbconv
from nas.training.losses import KL
from studies.strategies import comparisons, config, deployments
from studies.strategies.comparisons import Ablation, Setting
from studies.strategies.config import StrategiesParams

RERUN = "dvc repro --force studies/strategies/dvc.yaml"
FIGURE_8_STEP, FIGURE_8_CLASSES = 25, 1000  # MFLOPs, and classes: of AttentiveNAS's own space
FINAL_METRICS = ("hypervolume", "top1_low", "top1_best")


def output(stage: str, key: str, name: str) -> Path:
    """A file that another stage wrote.

    Raises:
        FileNotFoundError: if it is missing; names the command that makes it.
    """
    path = config.PIPELINE.out(stage, key) / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; `dvc repro {config.PIPELINE.address(stage, key)}` makes it")
    return path


def all_runs(stage: str, names: tuple[str, ...], seeds: tuple[int, ...]) -> pd.DataFrame:
    """Everything evaluated by `train` (names: strategies) or `distill` (losses): strategy (a name), seed, mflops, top1 (percent), round."""
    parts = [evaluated(stage, f"{name}-{seed}").assign(strategy=name, seed=seed) for name in names for seed in seeds]
    return pd.concat(parts, ignore_index=True)


def evaluated(stage: str, key: str) -> pd.DataFrame:
    """mflops, top1 (percent), round of one run."""
    return read_table(output(stage, key, "evaluated.parquet"), RERUN)[["mflops", "top1", "round"]]


def final_metrics(stage: str, names: tuple[str, ...], seeds: tuple[int, ...]) -> pd.DataFrame:
    """strategy (a name, as for `all_runs`), seed, hypervolume, top1_low, top1_best (percent), from each run's metrics.json."""
    rows = []
    for name in names:
        for seed in seeds:
            metrics = read_json(output(stage, f"{name}-{seed}", "metrics.json"))
            rows.append({"strategy": name, "seed": seed} | {key: metrics[key] for key in FINAL_METRICS})
    return pd.DataFrame(rows)


def ablation(cfg: StrategiesParams, runs: pd.DataFrame, finals: pd.DataFrame) -> Ablation:
    """The runs of `distill`, named by the setting that differs; those of uniform sampling with the loss of `recipe` come first.

    Args:
        cfg: the parameters.
        runs: of the strategies, from `all_runs`.
        finals: of the strategies, from `final_metrics`.
    """
    base, *others = cfg.distillations
    labels: dict[str, dict[str, str]] = {}  # key -> distillation -> label
    for name in others:
        ((key, value),) = config.differences(cfg.losses[base], cfg.losses[name]).items()
        labels.setdefault(key, {})[name] = f"{key} {value_text(value)}"
    names = {base: base} | {name: label for by_name in labels.values() for name, label in by_name.items()}
    uniform = cfg.strategies[0]

    def with_reference(of_strategies: pd.DataFrame, of_losses: pd.DataFrame) -> pd.DataFrame:
        reference = of_strategies[of_strategies["strategy"] == uniform].assign(strategy=reference_name(cfg))
        return pd.concat([reference, of_losses.assign(strategy=of_losses["strategy"].map(names))], ignore_index=True)

    return Ablation(
        base,
        tuple(Setting(key, value_text(getattr(cfg.losses[base], key)), tuple(by_name.values())) for key, by_name in labels.items()),
        with_reference(runs, all_runs("distill", tuple(names), cfg.seeds)),
        with_reference(finals, final_metrics("distill", tuple(names), cfg.seeds)),
    )


def reference_name(cfg: StrategiesParams) -> str:
    """Name of the loss of `recipe`: KL if it is KL with the base's temperature and weight, else the strategy."""
    loss, base = cfg.recipe.distillation, cfg.losses[cfg.distillations[0]]
    comparable = (loss.temperature, loss.weight) == (base.temperature, base.weight)
    return comparisons.KL if isinstance(loss, KL) and comparable else cfg.strategies[0]


def value_text(value: float | None) -> str:
    """A value of a loss: -0.5, 2, none."""
    return "none" if value is None else f"{value:g}"


def over_seeds(finals: pd.DataFrame) -> pd.DataFrame:
    """strategy, seeds (their number), <metric>_mean and <metric>_std (n - 1; NaN for one seed)."""
    groups = finals.groupby("strategy", sort=False)
    columns = {"seeds": groups.size()}
    for name in FINAL_METRICS:
        columns |= {f"{name}_mean": groups[name].mean(), f"{name}_std": groups[name].std(ddof=1)}
    return pd.DataFrame(columns).reset_index()


def summary_metrics(summary: pd.DataFrame) -> dict[str, float]:
    """<strategy>/<metric> -> mean over the seeds, for MLflow."""
    return {f"{row['strategy']}/{name}": row[f"{name}_mean"] for row in summary.to_dict("records") for name in FINAL_METRICS}


def summary_json(summary: pd.DataFrame) -> dict:
    """For summary.json; the deviation over one seed is null."""

    def rounded(value: float) -> float | None:
        return round(float(value), 6) if np.isfinite(value) else None

    return {
        row["strategy"]: {"seeds": int(row["seeds"])}
        | {name: {"mean": rounded(row[f"{name}_mean"]), "std": rounded(row[f"{name}_std"])} for name in FINAL_METRICS}
        for row in summary.to_dict("records")
    }


def predictor_accuracies(seed: int) -> pd.DataFrame:
    """mflops, part, predicted, early, final (percent) of the sub-networks evaluated for the predictor."""
    early = read_table(output("pretrain", str(seed), "measured.parquet"), RERUN)
    final = read_table(output("continued", str(seed), "measured.parquet"), RERUN)
    return early.rename(columns={"top1": "early"})[["mflops", "part", "predicted", "early"]].assign(final=final["top1"])


def trials(cfg: config.Report, seed: int) -> pd.DataFrame:
    """Trials per sample by cost target on AttentiveNAS's own space, as in its Figure 8; needs no training."""
    table = flops.table(mbconv.load(FOLDER / "attentive_nas.yaml"), FIGURE_8_CLASSES)
    return trials_study(table, FIGURE_8_STEP, cfg.pool, cfg.trial_samples, seeding.generator(seed, "report", "trials"))


def mean_trials(studies: list[pd.DataFrame], seeds: tuple[int, ...]) -> pd.DataFrame:
    """seed, uniform, proposal, exact: means over the targets that the proposal's pool met."""
    means = [study.dropna().mean() for study in studies]
    rows = [(seed, m["uniform"], m["paper_mean"], m["exact"]) for seed, m in zip(seeds, means)]
    return pd.DataFrame(rows, columns=["seed", "uniform", "proposal", "exact"])


def two_spaces(cfg: StrategiesParams, runs: pd.DataFrame) -> pd.DataFrame:
    """space, seed, mflops, top1 (percent): uniform sampling on both spaces."""
    deep = runs[runs["strategy"] == cfg.strategies[0]].assign(space=cfg.space.name)
    wide = [evaluated("wide", str(seed)).assign(space=cfg.wide_space.name, seed=seed) for seed in cfg.seeds]
    return pd.concat([deep, *wide], ignore_index=True)[["space", "seed", "mflops", "top1"]]


def scratch_models(cfg: StrategiesParams) -> pd.DataFrame:
    """seed, model, mflops, top1_inherited, top1_scratch (percent)."""
    parts = [read_table(output("scratch", str(seed), "models.csv"), RERUN).assign(seed=seed) for seed in cfg.seeds]
    return pd.concat(parts, ignore_index=True)


def training_costs(cfg: StrategiesParams) -> list[deployments.Method]:
    """Cost of N networks by each strategy, trained from scratch, and as published."""
    methods = []
    for name in cfg.strategies:
        form, _, _ = config.form(name)
        counts = deployments.Counts(
            epochs=cfg.train.epochs,
            trained=2 + cfg.recipe.sampled,
            forwarded=form.k * cfg.recipe.sampled if form.by == "loss" else 0,
            pretraining_epochs=cfg.pretrain.epochs if form.needs_predictor else 0,
        )
        methods.append(deployments.from_supernet(name, counts))
    return [*methods, deployments.from_scratch(cfg.train.epochs), *deployments.PUBLISHED]
