"""The README's examples of prediction."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("word", ["nas.load", "onnxruntime"])
def test_both_examples_name_the_same_class(bundled, easy_set, tmp_path, word):
    """Both examples, with folder and side adapted, print the class that PyTorch predicts."""
    import torch

    import nas

    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (code,) = [block for block in blocks if word in block]
    assert len(code.strip().splitlines()) == 5
    shutil.copytree(bundled, tmp_path / "outputs" / "export" / "easy-a0")
    pixels = np.kron(easy_set.images.pixels[62], np.ones((4, 4, 1), np.uint8))  # larger than the network's side
    Image.fromarray(pixels).save(tmp_path / "letter.png")
    code = code.replace("glyphs-a4", "easy-a0").replace("(24, 24)", "(20, 20)")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    model = nas.load(bundled)
    with torch.inference_mode():
        expected = model.classes[model(model.open_image(tmp_path / "letter.png")).argmax()]
    assert done.stdout.strip() == expected
    assert expected in json.loads((bundled / "bundle.json").read_text())["classes"]
