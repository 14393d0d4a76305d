"""Networks to take away: torch.export, ONNX and 8-bit ONNX, each checked against the PyTorch network, and a model card."""
