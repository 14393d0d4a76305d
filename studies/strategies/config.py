"""Parameters of the comparison of strategies: studies/strategies/params.yaml."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, create_model

from nas.evaluation.evaluate import Evaluation
from nas.runtime import params
from nas.sampling.attentive import FORMS, StrategyName, parse_strategy
from nas.spaces import mbconv
from nas.spaces.mbconv import SearchSpace
from nas.stages.runner import Pipeline
from nas.training.losses import DistillationLoss
from nas.training.recipe import Recipe, Runtime

FLAT = "-flat"  # ending of a strategy's name: cost targets are uniform over the buckets
PIPELINE = Pipeline(Path("studies/strategies"), varied=("strategies", "distillations", "seeds", "losses", "scratch", "report"))
FILE = PIPELINE.parameters


class Pretrain(params.Section):
    """Section `pretrain`."""

    epochs: Annotated[int, Field(ge=1)]
    subnetworks: Annotated[int, Field(ge=8)]  # evaluated; half of them for the predictor
    trees: Annotated[int, Field(ge=1)]
    max_depth: Annotated[int, Field(ge=1)]


class Continued(params.Section):
    """Section `continued`."""

    epochs: Annotated[int, Field(ge=1)]


class Train(params.Section):
    """Section `train`."""

    epochs: Annotated[int, Field(ge=1)]
    bucket_mflops: Annotated[float, Field(gt=0)]  # costs are rounded to this


class Measure(params.Section):
    """Section `measure`: the evaluation budget per trained supernet."""

    buckets: Annotated[int, Field(ge=2)]  # of equal width, from the cheapest architecture to the most expensive
    architectures: Annotated[int, Field(ge=4)]  # per bucket, common to all supernets
    mutations: Annotated[int, Field(ge=0)]  # per round
    crossovers: Annotated[int, Field(ge=0)]  # per round
    rounds: Annotated[int, Field(ge=0)]
    mutation_probability: Annotated[float, Field(gt=0, le=1)]  # per gene
    parents_mflops: Annotated[float, Field(gt=0)]  # one parent per bucket of this width


class Scratch(params.Section):
    """Section `scratch`."""

    strategy: str  # whose families are trained from scratch
    models: Annotated[int, Field(ge=1)]


class Report(params.Section):
    """Section `report`."""

    trial_samples: Annotated[int, Field(ge=2)]  # architectures drawn per cost target for Figure 8
    pool: Annotated[int, Field(ge=1)]  # architectures behind the paper's sampler in Figure 8


@dataclass(frozen=True)
class StrategiesParams:
    """All of studies/strategies/params.yaml."""

    strategies: tuple[str, ...]
    distillations: tuple[str, ...]  # names in losses
    seeds: tuple[int, ...]
    losses: dict[str, DistillationLoss]
    space: SearchSpace
    wide_space: SearchSpace
    runtime: Runtime
    recipe: Recipe
    evaluation: Evaluation
    pretrain: Pretrain
    continued: Continued
    train: Train
    measure: Measure
    scratch: Scratch
    report: Report

    def sections(self, *names: str) -> dict[str, Any]:
        """For MLflow's parameters: the spaces by their names."""
        values = {name: getattr(self, name) for name in names}
        return {name: value.name if isinstance(value, SearchSpace) else value for name, value in values.items()}


SECTIONS = {
    "runtime": Runtime,
    "recipe": Recipe,
    "evaluation": Evaluation,
    "pretrain": Pretrain,
    "continued": Continued,
    "train": Train,
    "measure": Measure,
    "scratch": Scratch,
    "report": Report,
}


def read(file: Path = FILE) -> StrategiesParams:
    """The parameters, all validated before the first long stage.

    Raises:
        ParamsError: for the first error; names the key.
        FileNotFoundError, ValueError: for a search space that is missing or invalid.
    """
    values = params.read_all(file)
    params.check_keys(values, {"strategies", "distillations", "seeds", "losses", "space", "wide_space", *SECTIONS}, file)
    strategies, seeds = values["strategies"], values["seeds"]
    if not isinstance(strategies, list) or len(set(map(str, strategies))) != len(strategies) or not strategies:
        raise params.ParamsError(f"{file}: strategies: a list of distinct names is needed; found {strategies!r}")
    for name in strategies:
        form(name, file)
    if strategies[0] != "uniform":
        raise params.ParamsError(f"{file}: strategies: the first is the baseline, uniform; found {strategies[0]!r}")
    if not isinstance(seeds, list) or not seeds or any(type(s) is not int or s < 0 for s in seeds) or len(set(seeds)) != len(seeds):
        raise params.ParamsError(f"{file}: seeds: distinct non-negative integers are needed; found {seeds!r}")
    sections = {name: params.check(values, name, model, file) for name, model in SECTIONS.items()}
    if sections["scratch"].strategy not in strategies:
        raise params.ParamsError(f"{file}: scratch.strategy: {sections['scratch'].strategy!r} is not in strategies, {strategies}")
    losses, distillations = _losses(values, file)
    return StrategiesParams(
        tuple(strategies),
        distillations,
        tuple(seeds),
        losses,
        mbconv.load(str(values["space"])),
        mbconv.load(str(values["wide_space"])),
        **sections,
    )


def _losses(values: dict, file: Path) -> tuple[dict[str, DistillationLoss], tuple[str, ...]]:
    """The sections `losses` and `distillations`, validated."""
    names = values["losses"]
    if not isinstance(names, dict) or not names:
        raise params.ParamsError(f"{file}: losses: a mapping of names to distillation losses is needed; found {names!r}")
    model = create_model("Losses", __base__=params.Section, **{str(name): (DistillationLoss, ...) for name in names})
    section = params.check(values, "losses", model, file)
    losses = {str(name): getattr(section, str(name)) for name in names}
    listed = values["distillations"]
    if not isinstance(listed, list) or len(set(map(str, listed))) != len(listed) or not listed:
        raise params.ParamsError(f"{file}: distillations: a list of distinct names is needed; found {listed!r}")
    for name in listed:
        if name not in losses:
            raise params.ParamsError(f"{file}: distillations: {name!r} is not in losses, {list(losses)}")
    for name in listed[1:]:
        if len(different := differences(losses[listed[0]], losses[name])) != 1:
            raise params.ParamsError(
                f"{file}: losses.{name}: it has to differ from losses.{listed[0]}, the first of distillations, in exactly one key, so that "
                f"the effect of that key is measured; it differs in {sorted(different) or 'none'}"
            )
    return losses, tuple(listed)


def differences(a: DistillationLoss, b: DistillationLoss) -> dict[str, Any]:
    """Key -> value of b for the keys in which it differs from a, or which a has not."""
    first, second = a.model_dump(), b.model_dump()
    return {key: second.get(key) for key in {**first, **second} if first.get(key) != second.get(key)}


def form(name: str, file: Path = FILE) -> tuple[StrategyName, str, bool]:
    """The parsed name of a strategy, the name without the ending -flat, and whether its cost targets are uniform over the buckets.

    Raises:
        ParamsError: for a name that is not a strategy.
    """
    base = str(name).removesuffix(FLAT)
    flat = base != name
    try:
        parsed = parse_strategy(base)
    except ValueError:
        raise params.ParamsError(
            f"{file}: strategies: there is no strategy {name!r}; the forms are {FORMS}; those with K candidates also with the ending {FLAT}"
        ) from None
    if flat and (parsed.rule == "uniform" or parsed.offline):
        raise params.ParamsError(f"{file}: strategies: {name!r}: {base} draws no cost targets, so they cannot be flat; use {base!r}")
    return parsed, base, flat
