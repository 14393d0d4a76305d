"""The model card of a bundle as Markdown (Mitchell et al., "Model Cards for Model Reporting", arXiv:1810.03993)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nas.data.sources import CENTRE_FRACTION
from nas.export.bundle import DESCRIPTION, WEIGHTS, Description
from nas.export.formats import INT8, ONNX, PT2, Parity
from nas.export.onnx import OPSET

LICENCES = {  # of the images, by the dataset's name in params.yaml
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
UNKNOWN_LICENCE = "unknown: see the source of the dataset, or set `export.licence` in params.yaml"


@dataclass(frozen=True)
class Latency:
    """Measured latency of one runtime."""

    runtime: str  # torch, ONNX Runtime, ...
    latency_ms: float  # median, per call
    batch: int  # images per call
    threads: int
    device: str


@dataclass(frozen=True)
class Facts:
    """What the card states about a model beyond its description."""

    mflops: float  # multiply-accumulates per image, 1e6
    parameters: int
    top1: float  # percent, of the PyTorch network on the evaluated images
    parities: Sequence[Parity]  # per format
    latencies: Sequence[Latency]  # may be empty
    images: Mapping[str, int]  # split -> number of images
    evaluated_on: str  # the images that the accuracies are measured on
    licence: str  # of the images
    sizes: Mapping[str, int]  # file -> bytes


def card(description: Description, facts: Facts) -> str:
    """The model card, Markdown."""
    sections = (_usage(description), _accuracy(facts), _cost(description, facts), _data(description, facts), _limits(description), _files())
    return "\n".join([*_title(description), *(line for section in sections for line in section)])


def _title(d: Description) -> list[str]:
    text = (
        f"An image classifier for {len(d.classes)} classes ({d.dataset}): a sub-network extracted from a supernet (AttentiveNAS, "
        "arXiv:2011.09011), its batch-norm statistics re-estimated on training images and folded into the weights."
    )
    return [f"# {d.name}", "", text, ""]


def _usage(d: Description) -> Iterator[str]:
    side = d.images.side
    yield from _heading("How to run it")
    yield from _code(
        "import nas, torch",
        "",
        "model = nas.load(FOLDER)  # this folder",
        'with torch.inference_mode():\n    logits = model(model.open_image("image.png"))',
        "print(model.classes[logits.argmax()])",
    )
    yield (
        f"Without this package: `{ONNX}` (operator set {OPSET}) with ONNX Runtime, `{PT2}` with torch.export. The input is `images`: RGB "
        f"pixels 0..255, (batch, 3, {side}, {side}) uint8, any batch size. The output is `logits`: (batch, {len(d.classes)}), in the "
        f"order of `classes` in {DESCRIPTION}. Normalisation and the resize to {d.architecture.resolution} px are part of the model."
    )
    yield ""
    yield from _code(
        "import json, numpy as np, onnxruntime",
        "from PIL import Image, ImageOps",
        "",
        f'image = ImageOps.fit(Image.open("image.png").convert("RGB"), ({side}, {side}), '
        f"Image.Resampling.BILINEAR, bleed={(1 - CENTRE_FRACTION) / 2})",
        f'session = onnxruntime.InferenceSession("{ONNX}")',
        'logits = session.run(None, {"images": np.asarray(image).transpose(2, 0, 1)[None]})[0]',
        f'print(json.load(open("{DESCRIPTION}"))["classes"][logits.argmax()])',
    )
    yield (
        f"Images are prepared as in evaluation: the centre {CENTRE_FRACTION:g} of the shorter side is resized to {side} px (bilinear); "
        f"an image of exactly {side} x {side} px is used whole."
    )
    yield ""


def _accuracy(facts: Facts) -> Iterator[str]:
    yield from _heading("Accuracy")
    yield f"Evaluated on {facts.evaluated_on}."
    yield ""
    yield from _table(
        ("format", "top-1, %", "points below PyTorch", "same prediction, %", "largest difference of a logit"),
        [
            ("PyTorch", f"{facts.top1:.2f}", "", "", ""),
            *((p.format, f"{p.top1:.2f}", f"{p.top1_drop:.2f}", f"{p.agreement:.2f}", f"{p.max_abs_diff:.2g}") for p in facts.parities),
        ],
    )


def _cost(d: Description, facts: Facts) -> Iterator[str]:
    yield from _heading("Cost")
    yield (
        f"{facts.mflops:.3f} MFLOPs (multiply-accumulates per image), {facts.parameters:,.0f} parameters, "
        f"input resolution {d.architecture.resolution} px."
    )
    yield ""
    yield from _table(("file", "KiB"), [(name, f"{size / 1024:.0f}") for name, size in facts.sizes.items()])
    if facts.latencies:
        yield from _table(
            ("runtime", "latency_ms (median)", "batch size", "threads", "device"),
            [(e.runtime, f"{e.latency_ms:.3f}", str(e.batch), str(e.threads), e.device) for e in facts.latencies],
        )
    else:
        yield from ("Latency was not measured.", "")


def _data(d: Description, facts: Facts) -> Iterator[str]:
    yield from _heading("Data")
    counts = ", ".join(f"{split} {count}" for split, count in facts.images.items())
    yield f"{d.dataset}; images per split: {counts}. Licence of the images: {facts.licence}."
    yield ""


def _limits(d: Description) -> Iterator[str]:
    yield from _heading("Limits")
    yield (
        f"The model always answers with one of the {len(d.classes)} classes of its training images. Its accuracy on images of another "
        "kind is unknown. The 8-bit file keeps depthwise convolutions in float; its speed-up depends on the processor."
    )
    yield ""


def _files() -> Iterator[str]:
    yield from _heading("Files")
    yield (
        f"`{DESCRIPTION}`: classes, architecture, image preparation. `{WEIGHTS}`: the network with its batch norms, for `nas.load` and "
        f"for fine-tuning (`nas.export.bundle.load(FOLDER, folded=False)`). `{PT2}`, `{ONNX}`, `{INT8}`: the folded network."
    )
    yield ""


def _heading(text: str) -> list[str]:
    return [f"## {text}", ""]


def _code(*lines: str) -> list[str]:
    return ["```python", *lines, "```", ""]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [*(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)), ""]
