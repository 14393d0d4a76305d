"""Stage trade_off: searches with several lambda, with and without elasticity scaling (supplement, section 10).

params   studies/tf_nas_claims/params.yaml: trade_off; pipelines/tf_nas/params.yaml: seed, space, runtime, evaluation, search, train
reads    outputs/split/, pipelines/tf_nas/outputs/latency/table.json
writes   trade_off/results.csv    a search: seed, trade_off, scaled, `common.reached`, expected_latency_ms
         trade_off/metrics.json   {"scaled_deviation", "unscaled_deviation"}: largest distance from the target, a fraction of it
"""

from itertools import product

import pandas as pd

from nas.runtime.progress import progress
from nas.stages.errors import user_errors
from studies.tf_nas_claims import config

RESULTS = config.PIPELINE.outputs / "trade_off" / "results.csv"


def main() -> None:
    s = config.read()
    with config.PIPELINE.stage("trade_off", s.sections("trade_off")) as (run, checkpoint, out):
        searches, rows = config.Searches(s.tf_nas, checkpoint, run), []
        jobs = list(product(s.trade_off.seeds, s.trade_off.values, (True, False)))
        for seed, value, scaled in progress(jobs, "trade_off: searches", len(jobs)):
            settings = config.varied(s.tf_nas, seed, trade_off=value, elasticity_scaling=scaled)
            found = searches.search(f"{seed}-{value:g}-{'scaled' if scaled else 'fixed'}", settings).search
            known = {"seed": seed, "trade_off": value, "scaled": scaled, **config.reached(searches.table, found.arch, searches.target_ms)}
            rows.append(known | {"expected_latency_ms": found.history[-1].expected_latency_ms})
        results = pd.DataFrame(rows)
        results.to_csv(RESULTS, index=False, float_format="%.6g")
        run.table(results, "results.json")
        deviation = (results["table_latency_ms"] / results["target_latency_ms"] - 1).abs().groupby(results["scaled"]).max()
        config.PIPELINE.finish(out, {"scaled_deviation": deviation[True], "unscaled_deviation": deviation[False]}, run)


if __name__ == "__main__":
    user_errors(main)
