"""Stage trade_off: searches with several values of lambda, with and without elasticity scaling (supplement, section 10).

params   studies/tf_nas_claims/params.yaml: trade_off; pipelines/tf_nas/params.yaml: seed, space, runtime, evaluation, search, train
reads    outputs/split/, pipelines/tf_nas/outputs/latency/table.json
writes   trade_off/results.csv    per search: seed, trade_off, scaled, `config.reached`, expected_latency_ms
         trade_off/history.csv    per search and epoch, as pipelines/tf_nas/outputs/search/history.csv
         trade_off/metrics.json   {"scaled_deviation", "unscaled_deviation"}: largest deviation from the target, a fraction of it
"""

from itertools import product

import pandas as pd

from nas.runtime.progress import progress
from nas.stages import runner
from studies.tf_nas_claims import config


def main() -> None:
    cfg = config.read()
    with runner.stage("trade_off", cfg.sections("trade_off"), config.PIPELINE) as stage:
        searches, rows = config.Searches(cfg.tf_nas, stage.checkpoint, stage.run), []
        jobs = list(product(cfg.trade_off.seeds, cfg.trade_off.values, (True, False)))
        for seed, value, scaled in progress(jobs, "trade_off: searches", len(jobs)):
            search_cfg = config.varied(cfg.tf_nas, seed, trade_off=value, elasticity_scaling=scaled)
            search = searches.search(f"{seed}-{value:g}-{'scaled' if scaled else 'fixed'}", search_cfg).search
            row = {"seed": seed, "trade_off": value, "scaled": scaled, **config.reached(searches.table, search.arch, searches.target_ms)}
            rows.append(row | {"expected_latency_ms": search.history[-1].expected_latency_ms})
        searches.write_history(stage.out)
        results = pd.DataFrame(rows)
        results.to_csv(stage.out / "results.csv", index=False, float_format="%.6g")
        stage.run.table(results, "results.json")
        deviation = (results["table_latency_ms"] / results["target_latency_ms"] - 1).abs().groupby(results["scaled"]).max()
        stage.finish({"scaled_deviation": deviation[True], "unscaled_deviation": deviation[False]})


if __name__ == "__main__":
    runner.execute(main)
