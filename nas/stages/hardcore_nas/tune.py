"""Stage tune of HardCoRe-NAS: each network from the one-shot model's weights, and from fresh ones; then the test images, once.

HardCoRe-NAS (arXiv:2102.11646), section 4.2.2 and Appendix G (Figure 8). All training images are seen.

params   pipelines/hardcore_nas/params.yaml: seed, space, runtime, evaluation, images (augmentation), tune
reads    outputs/split/, train/weights.safetensors, train/teacher.safetensors, derive/family.json
writes   tune/weights.safetensors   of all networks, fine-tuned, as <name>.<parameter>
         tune/history.csv           network, training ("tuning" or "scratch"), epoch, loss (mean, nats)
         tune/metrics.json          {"<name>_top1", "<name>_top1_scratch" (percent, test), "seconds_a_target" (of fine-tuning)}
         ../summary.json            a target: target_latency_ms, max_violation_ms, table_latency_ms, measured_latency_ms,
                                    noise_floor, mflops, parameters, top1 and top1_scratch (percent, test)
"""

import numpy as np
import pandas as pd
from torch import nn

from nas.data import loader
from nas.data.dataset import open_dataset
from nas.differentiable.hardcore_nas.one_shot import OneShot, extract
from nas.differentiable.hardcore_nas.training import scratch_loss, tuning_loss
from nas.evaluation.evaluate import top1
from nas.models.blocks import RowNetwork
from nas.runtime.checkpoint import load_weights, save_weights
from nas.stages import split
from nas.stages.errors import user_errors
from nas.stages.hardcore_nas import config
from nas.stages.hardcore_nas.derive import FAMILY, FAMILY_KEYS, networks
from nas.stages.hardcore_nas.train import TEACHER, WEIGHTS
from nas.stages.pipelines import placed
from nas.stages.runner import write_json

TUNED = config.PIPELINE.outputs / "tune" / "weights.safetensors"


def main() -> None:
    s = config.read()
    p = s.tune
    parameters = s.sections("seed", "space", "runtime", "evaluation", "images", "tune")
    with config.PIPELINE.stage("tune", parameters) as (run, checkpoint, out):
        device, data = s.runtime.start(), open_dataset(split.OUT)
        classes, items = len(data.classes), data.indices("train")
        run.dataset(str(split.OUT / "splits.parquet"), "training", images=len(items))
        test = loader.EvaluationBatches(data, data.indices("test"), s.evaluation.batch, s.runtime.workers)
        trainer = config.Trainer("tune", s, data, device, checkpoint, run)
        model, teacher = OneShot(s.space, classes), RowNetwork(s.space.plan(s.space.largest()), classes)
        load_weights(WEIGHTS, model)
        load_weights(TEACHER, teacher)
        teacher.to(device, memory_format=s.runtime.memory_format).eval()
        tuned, rows, summary, metrics, seconds = nn.ModuleDict(), [], [], {}, []
        for entry, arch in networks(FAMILY, s.space, "derive", FAMILY_KEYS):
            name = entry["name"]
            network = extract(model, arch)
            with config.drawn(s.seed, "scratch", name):
                fresh = RowNetwork(network.plan, classes)
            loss = tuning_loss(network, teacher, p.tuning.label_smoothing)
            tuning = trainer.fit(f"{name}_tuning", "tuning", network, loss, items, p.tuning)
            loss = scratch_loss(fresh, p.scratch.label_smoothing)
            scratch = trainer.fit(f"{name}_scratch", "scratch", fresh, loss, items, p.scratch)
            reached = {key: top1(trained, placed(test, s.runtime, device)) for key, trained in (("top1", network), ("top1_scratch", fresh))}
            print(
                f"tune {name}: top-1 {reached['top1']:.2f} %, from fresh weights {reached['top1_scratch']:.2f} %, on test images",
                flush=True,
            )
            tuned[name] = network
            rows += [*tuning.rows(network=name, training="tuning"), *scratch.rows(network=name, training="scratch")]
            metrics |= {f"{name}_{key}": value for key, value in reached.items()}
            summary.append(
                {**{k: v for k, v in entry.items() if k not in ("name", "arch")}, **{k: round(v, 6) for k, v in reached.items()}}
            )
            seconds.append(tuning.seconds)
        save_weights(TUNED, tuned)
        pd.DataFrame(rows).to_csv(out / "history.csv", index=False)
        write_json(config.PIPELINE.outputs / "summary.json", summary)
        run.front({**entry, "latency_ms": entry["measured_latency_ms"]} for entry in summary)
        config.PIPELINE.finish(out, {**metrics, "seconds_a_target": float(np.mean(seconds))}, run)


if __name__ == "__main__":
    user_errors(main)
