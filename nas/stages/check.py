"""All of params.yaml, checked before the first long stage: a wrong key of a later one is told now, not after days."""

from importlib import import_module
from pathlib import Path

from nas.runtime import params
from nas.sampling.attentive import parse_strategy
from nas.tracking import session

STAGES = ("split", "pretrain", "fit_predictor", "train", "latency", "search", "export", "transfer", "report")


def check_all() -> None:
    """Read every section as its stage will.

    Raises:
        ParamsError, SpaceError, FileNotFoundError: for the first mistake; names the key.
    """
    common = import_module("nas.stages.runner")  # which imports this module
    distributed = import_module("nas.runtime.distributed")  # which loads torch
    common.seed()
    space = common.search_space()
    recipe, _, _ = common.shared()
    sections = {name: section(name) for name in STAGES} | {"tracking": session.Settings, "launcher": distributed.Launcher}
    found = params.read_all()
    params.check_keys(found, {"seed", "space", "recipe", "runtime", "evaluation", *sections})
    checked = {name: params.check(found, name, model) for name, model in sections.items()}
    distributed.images_per_process(recipe.batch, checked["launcher"].processes * checked["launcher"].nodes)
    try:
        parse_strategy(checked["train"].strategy)
    except ValueError as error:
        raise params.ParamsError(str(error)) from None
    split = checked["split"]
    sets = [source.key(Path(split.transfer_root)) for source in split.transfer]
    if unknown := sorted(set(checked["transfer"].augmentation) - {"default", *sets}):
        raise params.ParamsError(
            f"{params.FILE}: transfer.augmentation.{unknown[0]} is no transfer set; those of split.transfer are {sets}"
        )
    if checked["pretrain"].subnetworks > space.size:
        asked = checked["pretrain"].subnetworks
        raise params.ParamsError(f"{params.FILE}: pretrain.subnetworks: {asked} different ones, space {space.name!r} has {space.size}")


def section(stage: str) -> type[params.Section]:
    """The class of a stage's section: `FitPredictor` in nas/stages/fit_predictor.py."""
    return getattr(import_module(f"nas.stages.{stage}"), stage.title().replace("_", ""))
