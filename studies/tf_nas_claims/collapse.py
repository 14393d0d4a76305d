"""Stage collapse: searches with and without bi-sampling, and the share of layers with the same operation (supplement, section 5).

params   studies/tf_nas_claims/params.yaml: collapse; pipelines/tf_nas/params.yaml: seed, space, runtime, evaluation, search, train
reads    outputs/split/, pipelines/tf_nas/outputs/latency/table.json
writes   collapse/results.csv    per search: seed, bi_sampling, same_operation (share of the layers whose strongest operation is the
                                 one that most layers share), different (number of operations that are strongest in some layer)
         collapse/history.csv    per search and epoch, as pipelines/tf_nas/outputs/search/history.csv
         collapse/metrics.json   {"same_operation_with", "same_operation_without"}: means over the seeds
"""

from itertools import product

import pandas as pd

from nas.runtime.progress import progress
from nas.stages import runner
from studies.tf_nas_claims import config


def main() -> None:
    cfg = config.read()
    with runner.stage("collapse", cfg.sections("collapse"), config.PIPELINE) as stage:
        searches, rows = config.Searches(cfg.tf_nas, stage.checkpoint, stage.run), []
        jobs = list(product(cfg.collapse.seeds, (True, False)))
        for seed, bi_sampling in progress(jobs, "collapse: searches", len(jobs)):
            search_cfg = config.varied(cfg.tf_nas, seed, bi_sampling=bi_sampling)
            search = searches.search(f"{seed}-{'both' if bi_sampling else 'one'}", search_cfg).search
            last, different = search.history[-1], len(set(search.arch.operations))
            rows.append({"seed": seed, "bi_sampling": bi_sampling, "same_operation": last.same_operation, "different": different})
        searches.write_history(stage.out)
        results = pd.DataFrame(rows)
        results.to_csv(stage.out / "results.csv", index=False, float_format="%.6g")
        stage.run.table(results, "results.json")
        mean = results.groupby("bi_sampling")["same_operation"].mean()
        stage.finish({"same_operation_with": mean[True], "same_operation_without": mean[False]})


if __name__ == "__main__":
    runner.execute(main)
