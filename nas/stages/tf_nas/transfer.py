"""Stage transfer of TF-NAS: the trained networks fine-tuned on other data sets (supplement, section 6).

As the main pipeline's stage transfer: settings and network are chosen on a hold-out of the training images, the test
images of each set are read once.

params   pipelines/tf_nas/params.yaml: seed, space, runtime, evaluation, transfer
reads    outputs/split/, derive/family.json, train/weights.safetensors
writes   transfer/results.csv    set, network, mflops, learning_rate, weight_decay, top1_holdout, top1_test, best
         transfer/metrics.json   {"<set>_top1"}, percent, test, the chosen network
"""

import copy
from itertools import product

import numpy as np
import pandas as pd
from torch import nn

from nas.data.dataset import dataset_keys, open_dataset
from nas.data.splits import hold_out
from nas.models.blocks import RowNetwork
from nas.runtime.checkpoint import load_weights
from nas.runtime.progress import progress
from nas.stages import split
from nas.stages.errors import user_errors
from nas.stages.tf_nas import config
from nas.stages.tf_nas.derive import family
from nas.stages.tf_nas.train import WEIGHTS
from nas.training.finetune import Try
from nas.training.transfer import Tuner
from nas.training.transfer import evenly_by_cost as spread
from nas.training.transfer import normalised_as as like


def main() -> None:
    s = config.read()
    p = s.transfer
    with config.PIPELINE.stage("transfer", s.sections("seed", "space", "runtime", "evaluation", "transfer")) as (run, checkpoint, out):
        device = s.runtime.start()
        main_set, *sets = dataset_keys(split.OUT)
        source = open_dataset(split.OUT, main_set)
        found = family(s.space)
        trained = nn.ModuleDict({entry["name"]: RowNetwork(plan, len(source.classes)) for entry, plan in found})
        load_weights(WEIGHTS, trained)
        entries = spread([entry for entry, _ in found], p.models)
        tuner = Tuner(p, s.seed, s.runtime, device, s.evaluation, checkpoint)
        settings = [Try(*pair) for pair in product(p.learning_rates, p.weight_decays)]
        jobs = [(key, entry, setting) for key in sets for entry in entries for setting in settings]
        rows, metrics = [], {}
        for key, entry, setting in progress(jobs, "transfer: fine-tunings on the hold-out", len(jobs)):
            data = like(open_dataset(split.OUT, key), source)
            fit, held_out = (np.sort(part) for part in hold_out(data.indices("train"), data.labels, p.holdout, s.seed))
            held = tuner.top1(
                f"{key}/{entry['name']}/{setting}/hold-out", copy.deepcopy(trained[entry["name"]]), data, fit, held_out, setting
            )
            rows.append({"set": key, "network": entry["name"], "mflops": entry["mflops"], **vars(setting), "top1_holdout": held})
        columns = ["set", "network", "mflops", "learning_rate", "weight_decay", "top1_holdout"]
        results = pd.DataFrame(rows, columns=columns).assign(top1_test=np.nan, best=False)
        for key in progress(sets, "transfer: chosen networks on all training images", len(sets)):
            best = results[results["set"] == key]["top1_holdout"].idxmax()
            chosen, data = results.loc[best], like(open_dataset(split.OUT, key), source)
            setting = Try(float(chosen["learning_rate"]), float(chosen["weight_decay"]))
            tested = tuner.top1(
                f"{key}/chosen", copy.deepcopy(trained[chosen["network"]]), data, data.indices("train"), data.indices("test"), setting
            )
            results.loc[best, ["top1_test", "best"]] = tested, True
            metrics[f"{key}_top1"] = tested
        results.to_csv(out / "results.csv", index=False)
        run.table(results, "results.json")
        config.PIPELINE.finish(out, metrics, run)


if __name__ == "__main__":
    user_errors(main)
