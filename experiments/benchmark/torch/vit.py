"""CLIP's image tower with a linear last layer in PyTorch, trained whole or tuned.

Parameters have the names of ``experiments.models.clip``, with PyTorch's ``weight``
instead of ``kernel`` and ``scale``.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.models.clip.architecture import Vision


class VisionTransformer(nn.Module):
    """The network of ``vision_transformer``, or of ``tuned_clip`` with a linear head.

    Args:
      sizes: sizes of the tower.
      num_classes: size of the output.
      trained: what is trained beside the last layer: "all", "blocks", or "adaptformer"
        in frozen blocks.
      bottleneck: width inside AdaptFormer.
    """

    def __init__(
        self, sizes: Vision, num_classes: int, trained: str, bottleneck: int = 1
    ):
        super().__init__()
        width, patch = sizes.transformer.width, sizes.patch_size
        self.vision = nn.Module()
        self.vision.patch = nn.Linear(patch * patch * sizes.channels, width, bias=False)
        self.vision.class_embedding = nn.Parameter(0.02 * torch.randn(width))
        self.vision.position = nn.Parameter(0.02 * torch.randn(sizes.tokens, width))
        self.vision.ln_pre = nn.LayerNorm(width)
        adapter = bottleneck if trained == "adaptformer" else 0
        for i in range(sizes.transformer.layers):
            self.vision.add_module(f"block{i}", _Block(sizes, adapter))
        self.vision.ln_post = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        self._sizes = sizes
        for name, parameter in self.vision.named_parameters():
            wanted = {"all": "", "blocks": "block", "adaptformer": "tuner"}[trained]
            parameter.requires_grad_(wanted in name)

    def forward(self, images: Tensor) -> Tensor:
        tower = self.vision
        x = tower.patch(self._patches(images))
        first = tower.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = tower.ln_pre(torch.cat([first, x], dim=1) + tower.position)
        for i in range(self._sizes.transformer.layers):
            x = tower.get_submodule(f"block{i}")(x)
        return self.head(tower.ln_post(x[:, 0]))

    def _patches(self, images):
        patch = self._sizes.patch_size
        # In every patch, channels come last, as in JAX.
        x = images.unfold(2, patch, patch).unfold(3, patch, patch)
        x = x.permute(0, 2, 3, 4, 5, 1)
        return x.reshape(len(images), self._sizes.tokens - 1, -1)


class _Block(nn.Module):
    def __init__(self, sizes: Vision, adapter: int):
        super().__init__()
        width, hidden = sizes.transformer.width, sizes.transformer.hidden
        self.ln_1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ln_2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.heads = sizes.transformer.heads
        if adapter:
            self.tuner_mlp_0 = _AdaptFormer(width, adapter)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.ln_1(x)).reshape(batch, tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(batch, tokens, width))
        y = self.fc1(self.ln_2(x))
        y = self.fc2(y * torch.sigmoid(1.702 * y))
        if hasattr(self, "tuner_mlp_0"):
            y = y + self.tuner_mlp_0(x)
        return x + y


class _AdaptFormer(nn.Module):
    def __init__(self, width: int, bottleneck: int):
        super().__init__()
        self.ln = nn.LayerNorm(width)
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.scale = nn.Parameter(torch.ones(()))
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.up(F.relu(self.down(self.ln(x))))
