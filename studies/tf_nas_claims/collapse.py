"""Stage collapse: searches with and without bi-sampling; how many layers end with the same operation (supplement, section 5).

params   studies/tf_nas_claims/params.yaml: collapse; pipelines/tf_nas/params.yaml: seed, space, runtime, evaluation, search, train
reads    outputs/split/, pipelines/tf_nas/outputs/latency/table.json
writes   collapse/results.csv    a search: seed, bi_sampling, same_operation (share of the layers whose strongest operation is the
                                 one that most layers share), different (how many operations are strongest in a layer)
         collapse/metrics.json   {"same_operation_with", "same_operation_without"}: means over the seeds
"""

from itertools import product

import pandas as pd

from nas.runtime.progress import progress
from nas.stages.errors import user_errors
from studies.tf_nas_claims import config

RESULTS = config.PIPELINE.outputs / "collapse" / "results.csv"


def main() -> None:
    s = config.read()
    with config.PIPELINE.stage("collapse", s.sections("collapse")) as (run, checkpoint, out):
        searches, rows = config.Searches(s.tf_nas, checkpoint, run), []
        jobs = list(product(s.collapse.seeds, (True, False)))
        for seed, both in progress(jobs, "collapse: searches", len(jobs)):
            settings = config.varied(s.tf_nas, seed, bi_sampling=both)
            found = searches.search(f"{seed}-{'both' if both else 'one'}", settings).search
            different = len(set(found.arch.operations))
            rows.append({"seed": seed, "bi_sampling": both, "same_operation": found.history[-1].same_operation, "different": different})
        results = pd.DataFrame(rows)
        results.to_csv(RESULTS, index=False, float_format="%.6g")
        run.table(results, "results.json")
        mean = results.groupby("bi_sampling")["same_operation"].mean()
        config.PIPELINE.finish(out, {"same_operation_with": mean[True], "same_operation_without": mean[False]}, run)


if __name__ == "__main__":
    user_errors(main)
