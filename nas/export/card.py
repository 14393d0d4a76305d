"""The model card of a bundle (Mitchell et al., "Model Cards for Model Reporting", arXiv:1810.03993), as Markdown."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.data.sets import CENTRE
from nas.export.bundle import DESCRIPTION, WEIGHTS, Description
from nas.export.formats import INT8, ONNX, PT2
from nas.export.graph import OPSET
from nas.export.parity import Parity

LICENCES = {  # of the images, by the data set's name in params.yaml
    **dict.fromkeys(
        ("glyphs", "greek", "cyrillic"),
        "drawn from the fonts that matplotlib ships (DejaVu, STIX, Computer Modern; free licences) over crops of the two "
        "photographs that scikit-learn ships (by danielbuechele and vultilion, CC BY 2.0)",
    ),
    "digits": "Optical Recognition of Handwritten Digits (Alpaydin and Kaynak), UCI Machine Learning Repository, CC BY 4.0",
    "imagenet": "ImageNet terms of access: non-commercial research and education; the images belong to their owners",
    "fashion_mnist": "MIT",
    "food101": "the images belong to their owners (Foodspotting); research use",
}
UNKNOWN = "not stated: see the data set's source, or say it in params.yaml `export.licence`"


@dataclass(frozen=True)
class Latency:
    """How long one call takes."""

    runtime: str  # torch, ONNX Runtime, ...
    latency_ms: float  # median
    batch: int  # images a call
    threads: int
    device: str


def card(
    description: Description,
    facts: Mapping[str, float],
    parities: Sequence[Parity],
    latencies: Sequence[Latency],
    images: Mapping[str, int],
    checked_on: str,
    licence: str,
    sizes: Mapping[str, int],
) -> str:
    """The card.

    Args:
        description: of the bundle.
        facts: mflops, parameters, top1 (percent, of the PyTorch network on the checked images).
        parities: of each format.
        latencies: where they were measured; may be empty.
        images: how many by part of the data.
        checked_on: what images the accuracies were counted on.
        licence: of the images.
        sizes: bytes of each file.
    """
    d, prepared = description, description.images
    return "\n".join(
        [
            f"# {d.name}",
            "",
            f"An image classifier for {len(d.classes)} classes ({d.dataset}): one architecture of a search space, its weights cut out "
            "of a supernet (AttentiveNAS, arXiv:2011.09011), batch-norm statistics estimated anew on training images and folded.",
            "",
            "## How to run it",
            "",
            *_code(
                "import nas, torch",
                "",
                "model = nas.load(FOLDER)  # this folder",
                'with torch.inference_mode():\n    logits = model(model.open_image("image.png"))',
                "print(model.classes[logits.argmax()])",
            ),
            "",
            f"Without this package: `{ONNX}` (operator set {OPSET}) in ONNX Runtime, `{PT2}` in torch.export. All take RGB pixels "
            f"0..255 as `images` (batch, 3, {prepared.side}, {prepared.side}) uint8, any batch, and give `logits` (batch, "
            f"{len(d.classes)}) in the order of `classes` in {DESCRIPTION}. Normalisation and the resize to "
            f"{d.architecture.resolution} px are inside.",
            "",
            *_code(
                "import json, numpy as np, onnxruntime",
                "from PIL import Image, ImageOps",
                "",
                f'image = ImageOps.fit(Image.open("image.png").convert("RGB"), ({prepared.side}, {prepared.side}), '
                f"Image.Resampling.BILINEAR, bleed={(1 - CENTRE) / 2})",
                f'session = onnxruntime.InferenceSession("{ONNX}")',
                'logits = session.run(None, {"images": np.asarray(image).transpose(2, 0, 1)[None]})[0]',
                f'print(json.load(open("{DESCRIPTION}"))["classes"][logits.argmax()])',
            ),
            "",
            f"Images are prepared as in evaluation: the centre {CENTRE:g} of the shorter side, resized to {prepared.side} px (bilinear); "
            f"an image of just {prepared.side} x {prepared.side} px is taken whole.",
            "",
            "## Accuracy",
            "",
            f"On {checked_on}.",
            "",
            *_table(
                ("format", "top-1, %", "points below PyTorch", "same answer, %", "largest difference of a logit"),
                [
                    ("PyTorch", f"{facts['top1']:.2f}", "", "", ""),
                    *((p.format, f"{p.top1:.2f}", f"{p.top1_drop:.2f}", f"{p.agreement:.2f}", f"{p.max_abs_diff:.2g}") for p in parities),
                ],
            ),
            "",
            "## Cost",
            "",
            f"{facts['mflops']:.3f} MFLOPs (multiply-accumulates an image), {facts['parameters']:,.0f} parameters, "
            f"{d.architecture.resolution} px.",
            "",
            *_table(("file", "KiB"), [(name, f"{size / 1024:.0f}") for name, size in sizes.items()]),
            "",
            *(
                _table(
                    ("runtime", "latency_ms (median)", "images a call", "threads", "device"),
                    [(e.runtime, f"{e.latency_ms:.3f}", str(e.batch), str(e.threads), e.device) for e in latencies],
                )
                if latencies
                else ["Latency was not measured."]
            ),
            "",
            "## Data",
            "",
            f"{d.dataset}; images by part: {', '.join(f'{part} {count}' for part, count in images.items())}. "
            f"Licence of the images: {licence}.",
            "",
            "## Limits",
            "",
            f"It knows the {len(d.classes)} classes of its training images and always answers with one of them. Accuracy on images of "
            f"another kind than those is unknown. The 8-bit file keeps depthwise convolutions in float; how much faster it is depends on "
            "the processor.",
            "",
            "## Files",
            "",
            f"`{DESCRIPTION}`: classes, architecture, preparation of images. `{WEIGHTS}`: the network with its batch norms, for "
            f"`nas.load` and for fine-tuning (`nas.export.bundle.load(FOLDER, folded=False)`). `{PT2}`, `{ONNX}`, `{INT8}`: the same, folded.",
            "",
        ]
    )


def device() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _code(*lines: str) -> list[str]:
    return ["```python", *lines, "```"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
