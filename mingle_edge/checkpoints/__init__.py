"""Vision towers from open_clip and Hugging Face checkpoints, under one internal naming, tensor by tensor."""

from mingle_edge.checkpoints.architectures import read_architecture
from mingle_edge.checkpoints.checkpoint import Checkpoint, open_checkpoint
from mingle_edge.checkpoints.difference import check_checkpoint

__all__ = ["Checkpoint", "check_checkpoint", "open_checkpoint", "read_architecture"]
