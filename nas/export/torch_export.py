"""A classifier as a torch.export program with a free batch size (model.pt2)."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.export import Dim, ExportedProgram

from nas.export.bundle import Classifier

PT2 = "model.pt2"  # file name in a bundle


def trace(classifier: Classifier) -> ExportedProgram:
    """The program, without the paths of this machine's source files.

    Args:
        classifier: in eval mode on the CPU.
    """
    side = classifier.description.images.side
    example = torch.zeros((2, 3, side, side), dtype=torch.uint8)
    with torch.no_grad():
        program = torch.export.export(classifier, (example,), dynamic_shapes=({0: Dim("batch", min=1)},))
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn"):
            node.meta.pop(key, None)
    return program


def to_bytes(program: ExportedProgram) -> bytes:
    """The content of model.pt2; the same program gives the same bytes."""
    torch.export.save(program, buffer := io.BytesIO())
    return buffer.getvalue()


def open_module(module: torch.nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """A PyTorch module in eval mode on the CPU as a function of NumPy images."""

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(np.ascontiguousarray(images))).numpy()

    return run


def open_pt2(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """A torch.export program as a function of images; torch's own thread count applies.

    PyTorch evaluates parts of the file as code, so only a file that was written here may be opened.
    """
    return open_module(torch.export.load(path).module())
