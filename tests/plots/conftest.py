"""Results of a synthetic run, shaped like those of a real one."""

import numpy as np
import pandas as pd
import pytest

from nas.plots.page import Results
from nas.sampling.uniform import Unconstrained
from nas.search import evolution, family
from nas.search.loop import search
from nas.search.problem import Objective, Problem, score_objective
from nas.spaces import FOLDER, encoding, mbconv

SPACE = mbconv.load(FOLDER / "glyphs.yaml")


def cost(rows: np.ndarray) -> np.ndarray:
    """MFLOPs, from 0.1 for the smallest to 3 for the largest architecture."""
    low, high = (np.array(a.genes) for a in (SPACE.smallest(), SPACE.largest()))
    return 0.1 * 30 ** ((rows - low) / np.maximum(high - low, 1)).mean(axis=1)


def top1(rows: np.ndarray, seed: int) -> np.ndarray:
    """Percent: saturates with cost, with Gaussian noise of 0.7 points."""
    return 92 - 38 * (0.08 / cost(rows)) ** 0.5 + np.random.default_rng([seed, len(rows)]).normal(0, 0.7, len(rows))


@pytest.fixture(scope="session")
def results() -> Results:
    """Results of a run with a synthetic oracle."""
    rng = np.random.default_rng(0)
    settings = evolution.EvolutionConfig(population=64, mutations=32, crossovers=32, rounds=5, mutation_probability=0.2, bucket=0.1)
    oracle = {
        "score": lambda archs: top1(encoding.to_genes(archs), 1).tolist(),
        "seed": 0,
    }
    problem, draw = Problem(SPACE, (Objective("mflops", cost), score_objective())), Unconstrained(SPACE)
    evolved = search(evolution.Evolution(settings, draw), problem, **oracle)
    random = search(evolution.RandomSearch(len(evolved), 64, draw), problem, **oracle)
    models = family.pareto_family(evolved, "glyphs", size=6)
    rows = encoding.to_genes([m.arch for m in models])
    measured = encoding.random_genes(SPACE, 200, rng)
    epochs = np.arange(40)
    history = pd.DataFrame(
        {
            "epoch": epochs,
            "learning_rate": 0.1,
            "loss_largest": 3.3 * np.exp(-epochs / 15) + 0.7,
            "loss_sampled": 0.9 * np.exp(-epochs / 15) + 0.1,
            "loss_smallest": 1.3 * np.exp(-epochs / 15) + 0.25,
            "top1_smallest": 62 - 58 * np.exp(-epochs / 12),
            "top1_largest": 86 - 82 * np.exp(-epochs / 8),
        }
    )
    grid = [(s, m, lr, wd) for s in ("greek", "cyrillic", "digits") for m in models for lr in (0.02, 0.1) for wd in (0.0, 1e-4)]
    transfer = pd.DataFrame(grid, columns=["set", "model", "learning_rate", "weight_decay"])
    transfer["mflops"] = [m.cost for m in transfer["model"]]
    transfer["model"] = [m.name for m in transfer["model"]]
    transfer["top1_holdout"] = 90 + 3 * np.log10(transfer["mflops"]) + rng.normal(0, 1, len(transfer))
    transfer["best"] = transfer.groupby("set")["top1_holdout"].transform("max") == transfer["top1_holdout"]
    transfer["top1_test"] = (transfer["top1_holdout"] - 0.8).where(transfer["best"])
    targets = np.arange(0.2, 3.01, 0.2)
    shape = np.exp(-0.5 * ((targets - 1.2) / 0.4) ** 2)
    return Results(
        dataset="glyphs",
        classes=26,
        images={"train": 4200, "predictor": 600, "search": 900, "val": 300, "test": 2000},
        space="glyphs",
        architectures=SPACE.size,
        costs=("mflops", "latency_ms"),
        strategy="bestup-3-loss",
        largest_mflops=float(cost(encoding.to_genes([SPACE.largest()]))[0]),
        family=pd.DataFrame(
            {
                "name": [m.name for m in models],
                "arch": [encoding.to_json(m.arch) for m in models],
                "mflops": [m.cost for m in models],
                "latency_ms": [1 + m.cost for m in models],
                "parameters": (40_000 * cost(rows)).astype(int) + 9000,
                "top1_search": [m.score for m in models],
                "top1_test": [m.score - 1.1 for m in models],
            }
        ),
        ends=pd.DataFrame({"name": ["smallest", "largest"], "mflops": [0.1, 3.0], "latency_ms": [1.1, 4.0], "top1_test": [58.1, 85.3]}),
        evaluated=pd.concat([evolved.to_frame(SPACE).assign(method="evolution"), random.to_frame(SPACE).assign(method="random")]).eval(
            "latency_ms = 1 + mflops"
        ),
        predictions=pd.DataFrame(
            {
                "mflops": cost(measured),
                "measured": top1(measured, 2),
                "predicted": top1(measured, 3) * 0.9 + 8,
                "part": ["fit", "test"] * 100,
            }
        ),
        pretrain=history[:16],
        train=history,
        transfer=transfer,
        trials=pd.DataFrame({"target": targets, "uniform": 20 / shape, "paper_mean": 6 + targets, "paper_std": 5 + targets, "exact": 1.0}),
        params="seed: 0\nsearch: {population: 64} # <b>\n",
    )
