"""Exported models: self-contained bundles, torch.export, ONNX and 8-bit ONNX, checked against PyTorch; the model card."""
