"""Entry for torch.hub and s3prl: `torch.hub.load(FOLDER, "toolkit_local", source="local", ckpt="exp/x/model")`."""

from toolkit.s3prl import UpstreamExpert as toolkit_local

dependencies = ["torch", "lhotse", "safetensors"]
__all__ = ["toolkit_local"]
