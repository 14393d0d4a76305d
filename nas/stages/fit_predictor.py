"""Stage fit_predictor: a random forest from architecture to accuracy (AttentiveNAS, section 4.3 and Figure 4).

params   params.yaml: seed, space, fit_predictor
reads    outputs/pretrain/measured.parquet
writes   outputs/fit_predictor/forest.npz
         outputs/fit_predictor/predictions.parquet   mflops, measured, predicted, part (fit | test)
         outputs/fit_predictor/metrics.json          {"kendall_tau", "kendall_tau_flops", "subnetworks"}, on the half not fitted to
"""

import numpy as np
import pandas as pd

from nas.evaluation.metrics import kendall_tau
from nas.runtime import params, seeding
from nas.runtime.io import read_table
from nas.search.predictor import Forest
from nas.stages import config, runner

MEASURED = runner.out("pretrain") / "measured.parquet"


def main() -> None:
    cfg = params.read("fit_predictor", config.FitPredictor)
    seed, space = params.seed(), config.search_space()
    with runner.stage("fit_predictor", {"seed": seed, "space": space.name, "fit_predictor": cfg}) as stage:
        measured = read_table(MEASURED, "dvc repro --force pretrain", columns=[*(g.name for g in space.genes), "mflops", "top1"])
        stage.run.dataset(MEASURED.as_posix(), "fitting", subnetworks=len(measured))
        rows = measured[[g.name for g in space.genes]].to_numpy()
        order = seeding.generator(seed, "fit_predictor").permutation(len(rows))
        fit, test = np.split(order, [len(rows) // 2])
        forest = Forest.fit(rows[fit], measured["top1"].to_numpy()[fit], trees=cfg.trees, max_depth=cfg.max_depth, seed=seed)
        forest.save(stage.out / "forest.npz")

        part = np.full(len(rows), "fit", dtype=object)  # text of any length; a numpy string type would cut "test" to three letters
        part[test] = "test"
        predictions = pd.DataFrame(
            {"mflops": measured["mflops"], "measured": measured["top1"], "predicted": forest.predict(rows), "part": part}
        )
        predictions.to_parquet(stage.out / "predictions.parquet", index=False)
        stage.run.table(predictions, "predictions.json")
        tested = predictions.iloc[test]
        metrics = {
            "kendall_tau": kendall_tau(tested["predicted"], tested["measured"]),
            "kendall_tau_flops": kendall_tau(tested["mflops"], tested["measured"]),
            "subnetworks": len(rows),
        }
        stage.finish(metrics)


if __name__ == "__main__":
    runner.execute(main)
