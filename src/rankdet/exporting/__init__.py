"""Models as files that run without rankdet: ONNX, and programs of `torch.export`."""

from rankdet.extras import require

require(__name__)
