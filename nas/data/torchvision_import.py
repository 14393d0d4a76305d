"""torchvision, also next to a build of torch that its C++ operators are not linked for.

The pip wheel's operators need CUDA libraries; next to a CPU build of torch they do not load and `import torchvision`
fails with "operator torchvision::nms does not exist". Declaring the two operators first is enough for everything
that needs no box operators. All modules import transforms, datasets and models from here, not from torchvision.
"""

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def _has_operators() -> bool:
    """Whether torchvision's own C++ operators load."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None:
        raise ImportError("torchvision is not installed; `make repro` sets up the environment")
    for library in sorted(Path(spec.origin).parent.glob("_C.*")):
        try:
            torch.ops.load_library(str(library))
            return True
        except OSError:  # linked against another torch
            continue
    return False


if not _has_operators():
    for _name, _schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, _name.removeprefix("torchvision::")):
            torch.library.define(_name, _schema)

from torchvision import datasets, models, transforms  # noqa: E402

__all__ = ["datasets", "models", "transforms"]
