"""The family as a table, each architecture in words."""

import pandas as pd

from nas.spaces import encoding
from nas.spaces.mbconv import Arch


def words(arch: Arch) -> str:
    """E.g. "24 px | stem 8 | 8x1 k3 e1 | 16x2 k5 e3 | head 96": a stage is width x depth, kernel, expansion."""
    stages = (f"{s.width}×{s.depth} k{s.kernel} e{s.expansion}" for s in arch.stages)
    return " | ".join([f"{arch.resolution} px", f"stem {arch.stem}", *stages, f"head {arch.head}"])


def table(family: pd.DataFrame) -> pd.DataFrame:
    """For people: a row a model, cheapest first.

    Args:
        family: columns name, mflops, latency_ms, parameters, top1_search and top1_test (percent), arch (nas.spaces.encoding JSON).
    """
    family = family.sort_values("mflops")
    return pd.DataFrame(
        {
            "name": family["name"],
            "MFLOPs": [f"{m:.3f}" for m in family["mflops"]],
            "latency, ms": [f"{ms:.3g}" for ms in family["latency_ms"]],
            "parameters": [f"{p:,}" for p in family["parameters"]],
            "top-1 search, %": [f"{t:.1f}" for t in family["top1_search"]],
            "top-1 test, %": [f"{t:.1f}" for t in family["top1_test"]],
            "architecture": [words(encoding.from_json(a)) for a in family["arch"]],
        }
    )
