"""Stage continued of the comparison: the training of `pretrain` continues, and the same sub-networks are evaluated again.

AttentiveNAS (arXiv:2011.09011), section 4.3 and appendix B: does the ranking of early epochs persist? The same partition,
uniform sampling, a restarted learning rate (warm restart, arXiv:1608.03983).

    python -m studies.strategies.continued SEED

reads    pretrain/<seed>/
writes   continued/<seed>/measured.parquet   mflops, top1 (percent), in the order of pretrain/<seed>/measured.parquet
         continued/<seed>/metrics.json       {"kendall_tau", "kendall_tau_flops"} of the early predictor, on the part `test`
"""

import sys

import pandas as pd

from nas.data.dataset import open_dataset
from nas.evaluation.evaluate import build_scorer
from nas.evaluation.measure import measure_top1
from nas.evaluation.metrics import kendall_tau
from nas.models.supernet import new_supernet
from nas.runtime.checkpoint import load_weights
from nas.runtime.io import read_table
from nas.sampling.attentive import Uniform
from nas.sampling.uniform import Unconstrained
from nas.stages import runner
from studies.strategies import config, training


def main(seed: int) -> None:
    cfg = config.read()
    parameters = {"seed": seed} | cfg.sections("space", "recipe", "runtime", "evaluation", "continued")
    early = config.PIPELINE.out("pretrain", str(seed))
    names = {"key": str(seed), "title": f"continued, seed {seed}", "prefix": "fit_predictor"}
    with runner.stage("continued", parameters, config.PIPELINE, **names, shares=False) as stage:
        data = training.partition(open_dataset(runner.out("split")), seed)
        supernet = new_supernet(cfg.space, len(data.classes), seed, cfg.recipe.zero_init)
        load_weights(early / "weights.safetensors", supernet)
        strategy = Uniform(Unconstrained(cfg.space))
        training.train_supernet(supernet, data, data.indices("train"), strategy, cfg.continued.epochs, seed, "continued", cfg, stage)

        before = read_table(early / "measured.parquet", "dvc repro --force studies/strategies/dvc.yaml:pretrain")
        rows = before[[g.name for g in cfg.space.genes]].to_numpy()
        score = build_scorer(supernet, data, "predictor", cfg.evaluation, cfg.runtime, cfg.runtime.start(), seed)
        measured = pd.DataFrame({"mflops": before["mflops"], "top1": measure_top1(rows, score, stage.checkpoint)})
        measured.to_parquet(stage.out / "measured.parquet", index=False)
        test = before["part"] == "test"
        metrics = {
            "kendall_tau": kendall_tau(before["predicted"][test], measured["top1"][test]),
            "kendall_tau_flops": kendall_tau(measured["mflops"][test], measured["top1"][test]),
        }
        stage.finish(metrics)


if __name__ == "__main__":
    runner.execute(lambda: main(int(sys.argv[1])))
