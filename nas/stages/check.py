"""All of params.yaml, checked before the first long stage: a wrong key of a later one is told now, not after days."""

from nas import params, tracking
from nas.sampling.attentive import parse


def check_all() -> None:
    """Read every section as its stage will.

    Raises:
        ParamsError, ValueError, FileNotFoundError: for the first mistake; names the key.
    """
    from nas.stages import common, fit_predictor, pretrain, report, search, split, train, transfer

    common.seed()
    common.search_space()
    common.shared()
    sections = {
        "split": split.Split,
        "pretrain": pretrain.Pretrain,
        "fit_predictor": fit_predictor.FitPredictor,
        "train": train.Train,
        "search": search.Search,
        "transfer": transfer.Transfer,
        "report": report.Report,
        "tracking": tracking.Settings,
    }
    known = {"seed", "space", "recipe", "runtime", "evaluation", *sections}
    found = params.read_all()
    if unknown := sorted(set(found) - known):
        raise params.ParamsError(f"{params.FILE}: there is no section {unknown[0]!r}; the sections are {sorted(known)}")
    for name, model in sections.items():
        params.check(found, name, model)
    parse(found["train"]["strategy"])
