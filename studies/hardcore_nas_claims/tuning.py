"""Stage tuning: networks fine-tuned for few and for many epochs, and trained from fresh weights (Appendix G, Figure 8).

As stage tune of HardCoRe-NAS does it, but for the numbers of epochs; the test images choose nothing.

params   studies/hardcore_nas_claims/params.yaml: tuning
         pipelines/hardcore_nas/params.yaml: seed, space, runtime, evaluation, images, tune
reads    outputs/split/; of HardCoRe-NAS train/weights.safetensors, train/teacher.safetensors, derive/family.json
writes   tuning/results.csv    a network and training: network, training ("tuning" or "scratch"), epochs (0: the one-shot model's
                               weights as they are), top1 (percent, test), images (that it was counted on),
                               measured_latency_ms, seconds
         tuning/history.csv    network, training, epochs, epoch, loss (mean, nats)
         tuning/metrics.json   {"<training>_<epochs>_top1"}: means over the networks
"""

import pandas as pd

from nas.runtime.progress import progress
from nas.stages.errors import user_errors
from nas.stages.hardcore_nas.derive import FAMILY, networks
from studies.hardcore_nas_claims import config

RESULTS = config.PIPELINE.outputs / "tuning" / "results.csv"
TUNED, FRESH = "tuning", "scratch"


def main() -> None:
    s = config.read()
    with config.PIPELINE.stage("tuning", s.sections("tuning")) as (run, checkpoint, out):
        own, rows, history = config.Networks(s.hardcore_nas, checkpoint, run), [], []
        family = {e["name"]: (e, arch) for e, arch in networks(FAMILY, s.hardcore_nas.space, "derive", ("name", "measured_latency_ms"))}
        for name in progress(s.tuning.targets, "tuning: networks", len(s.tuning.targets)):
            entry, arch = family[name]
            jobs = [(TUNED, own.tuned, epochs) for epochs in s.tuning.epochs] + [(FRESH, own.fresh, s.tuning.scratch)]
            known = {"network": name, "images": len(own.data.indices("test")), "measured_latency_ms": entry["measured_latency_ms"]}
            rows.append({**known, "training": TUNED, "epochs": 0, "top1": own.top1(own.inherited(arch)), "seconds": 0.0})
            for training, train, epochs in jobs:
                network, trained = train(name, arch, epochs)
                facts = {"training": training, "epochs": epochs}
                rows.append({**known, **facts, "top1": own.top1(network), "seconds": trained.seconds})
                history += trained.rows(network=name, **facts)
                print(f"tuning {name}: top-1 {rows[-1]['top1']:.2f} % after {training}, epochs: {epochs}", flush=True)
        results = pd.DataFrame(rows)
        results.to_csv(RESULTS, index=False, float_format="%.6g")
        pd.DataFrame(history).to_csv(out / "history.csv", index=False, float_format="%.6g")
        run.table(results, "results.json")
        means = results.groupby(["training", "epochs"], sort=False)["top1"].mean()
        config.PIPELINE.finish(out, {f"{training}_{epochs}_top1": mean for (training, epochs), mean in means.items()}, run)


if __name__ == "__main__":
    user_errors(main)
