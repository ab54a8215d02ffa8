"""What can be chosen about scoring. Quick to import: no torch."""

__all__ = ["RUNTIMES"]

#: What runs the model; ``auto`` is ONNX Runtime on a CPU and PyTorch on a GPU.
RUNTIMES = ("auto", "torch", "onnx")
