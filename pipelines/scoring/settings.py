"""What can be chosen about scoring. Quick to import: no torch."""

__all__ = ["RUNTIMES"]

#: What runs the model: PyTorch, or ONNX Runtime in float32 or mostly in numbers of eight bits. ``auto`` is PyTorch on a
#: GPU, and on a CPU ``int8`` where the network allows it, else ``onnx``.
RUNTIMES = ("auto", "torch", "onnx", "int8")
