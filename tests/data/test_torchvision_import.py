"""torchvision works next to any build of torch."""

import subprocess
import sys


def test_vision_imports_in_a_fresh_process():
    """Transforms, datasets and models work whether or not torchvision's operators load."""
    code = (
        "from nas.data.torchvision_import import datasets, models, transforms; import torch; "
        "print(transforms.CenterCrop(2)(torch.zeros(3, 4, 4)).shape, datasets.CIFAR10.__name__, "
        "models.resnet18(num_classes=5)(torch.zeros(2, 3, 32, 32)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "torch.Size([3, 2, 2]) CIFAR10 torch.Size([2, 5])"


def test_datasets_do_not_need_torch():
    """Drawing, listing and splitting images does not import torch."""
    modules = "nas.stages.split, nas.data.sources, nas.data.dataset, nas.data.splits, nas.data.embedded"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr
