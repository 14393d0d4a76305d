"""Stage train of TF-NAS: each derived network from fresh weights on all training images; then the test images, once.

params   pipelines/tf_nas/params.yaml: seed, space, runtime, evaluation, train
reads    outputs/split/, derive/family.json
writes   train/weights.safetensors   of all networks, calibrated, as <name>.<parameter>
         train/metrics.json          {"<name>_top1"}, percent, test
         ../summary.json             a target: target_latency_ms, table_latency_ms, measured_latency_ms, noise_floor, mflops,
                                     parameters, top1 (percent, test), bounds_reached
"""

from torch import nn

from nas.data.dataset import open_dataset
from nas.models.blocks import RowNetwork
from nas.runtime.checkpoint import save_weights
from nas.stages import split
from nas.stages.errors import user_errors
from nas.stages.runner import write_json
from nas.stages.scratch import Alone
from nas.stages.tf_nas import config
from nas.stages.tf_nas.derive import family

WEIGHTS = config.PIPELINE.outputs / "train" / "weights.safetensors"


def main() -> None:
    s = config.read()
    with config.PIPELINE.stage("train", s.sections("seed", "space", "runtime", "evaluation", "train")) as (run, checkpoint, out):
        device, data = s.runtime.start(), open_dataset(split.OUT)
        alone = Alone(s.train, config.PIPELINE, s.seed, s.runtime, s.evaluation, device, checkpoint)
        run.dataset(str(split.OUT / "splits.parquet"), "training", images=len(data.indices("train")))
        networks, summary, metrics, test = nn.ModuleDict(), [], {}, data.indices("test")
        for entry, plan in family(s.space):
            network = alone.trained(entry["name"], RowNetwork(plan, len(data.classes)), data, data.indices("train"))
            networks[entry["name"]] = network
            top1 = 100 * float((alone.answers(network, data, test) == data.labels[test]).mean())
            metrics[f"{entry['name']}_top1"] = top1
            summary.append({key: value for key, value in entry.items() if key not in ("name", "rows")} | {"top1": round(top1, 6)})
            print(f"train {entry['name']}: top-1 {top1:.2f} % on test images", flush=True)
        save_weights(WEIGHTS, networks)
        write_json(config.PIPELINE.outputs / "summary.json", summary)
        run.front({**entry, "latency_ms": entry["measured_latency_ms"]} for entry in summary)
        config.PIPELINE.finish(out, metrics, run)


if __name__ == "__main__":
    user_errors(main)
