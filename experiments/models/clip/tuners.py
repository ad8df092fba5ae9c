r"""Small modules that tune a frozen vision transformer, and the weights they unfreeze.

A module maps the input ``x`` and the output ``y`` of a layer to a new output. ``width``
is the width of the tower, :math:`d` the bottleneck. Sizes, places and initial values
are those of the Focal-SAM and LIFT codes.

References:
  Shi et al., `Long-Tail Learning with Foundation Model: Heavy Fine-Tuning Hurts
  <https://arxiv.org/abs/2309.10019>`_, ICML 2024 (LIFT)
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

import focal_sam_jax as fsam
from experiments.config import Tuner
from experiments.models.clip.architecture import Transformer, Vision
from experiments.models.clip.transformer import LayerNorm, MakeTuners, dense
from experiments.models.layers import normal, per_example, uniform

_PROMPTS = 10


def bottleneck(num_classes: int, layers: int) -> int:
    """Computes LIFT's tuner width: C / 2 L rounded down to a power of two, at least 1.

    Together, a tuner's modules are about as large as the last layer. The width is 1 for
    10 classes and 12 layers, 4 for 100, 32 for 1000, 256 for 8142.
    """
    return 2 ** max(0, int(math.log2(num_classes / (2 * layers))))


class Adapter(nnx.Module):
    r"""``y + up(relu(down(LN(y))))`` after the MLP, before the residual sum.

    ``down`` maps the width to :math:`d`; ``up`` maps it back and starts at zero.

    References:
      Houlsby et al., `Parameter-Efficient Transfer Learning for NLP
      <https://arxiv.org/abs/1902.00751>`_, ICML 2019
    """

    def __init__(self, width: int, d: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.ln = LayerNorm(width, rngs)
        # Kaiming's normal distribution for a leaky slope of sqrt(5).
        init = normal(math.sqrt(1 / (3 * width)))
        self.down = dense(width, d, rngs, dtype=dtype, kernel_init=init)
        self.up = dense(d, width, rngs, dtype=dtype)

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        return y + self.change(y)

    def change(self, x: jax.Array) -> jax.Array:
        """Computes the change."""
        return self.up(nnx.relu(self.down(self.ln(x))))


class AdaptFormer(Adapter):
    r"""``y + scale up(relu(down(LN(x))))`` beside the MLP.

    ``x`` is the input of the MLP half of the block, before its normalisation. The scale
    is learned and starts at 1.

    References:
      Chen et al., `AdaptFormer: Adapting Vision Transformers for Scalable Visual
      Recognition <https://arxiv.org/abs/2205.13535>`_, NeurIPS 2022
    """

    def __init__(self, width: int, d: int, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(width, d, dtype, rngs)
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        return y + fsam.apply_per_example(
            lambda scale, change: scale.astype(y.dtype) * change,
            self.scale.get_value(),
            self.change(x),
        )


class Lora(nnx.Module):
    r""":math:`y + x A B / d` with :math:`A` of inputs x d; :math:`B` starts at zero.

    The outputs consist of ``parts`` of equal size. Those in ``tuned`` have their own
    matrices, such as queries and values among queries, keys and values.

    References:
      Hu et al., `LoRA: Low-Rank Adaptation of Large Language Models
      <https://arxiv.org/abs/2106.09685>`_, ICLR 2022
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        d: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        *,
        parts: int = 1,
        tuned: Sequence[int] = (0,),
    ):
        shape = (len(tuned), inputs, d)
        self.a = nnx.Param(uniform(d**-0.5)(rngs.params(), shape))
        self.b = nnx.Param(jnp.zeros((len(tuned), d, outputs // parts)))
        self._parts, self._tuned, self._dtype = parts, tuple(tuned), dtype

    @per_example
    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        a, b = (
            w if self._dtype == jnp.float32 else w.astype(self._dtype)
            for w in (self.a[...], self.b[...])
        )
        changes = jnp.einsum("btw,pwd,pdo->pbto", x, a, b) / a.shape[-1]
        return y + self._spread(changes)

    def merge(self, kernel: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns kernel and bias of the layer with this tuner merged."""
        changes = jnp.matmul(self.a[...], self.b[...]) / self.a.shape[-1]
        return kernel + self._spread(changes), bias

    def _spread(self, changes):
        """Concatenates the changes of the tuned parts, and zeros for other parts."""
        none = jnp.zeros_like(changes[0])
        parts = [none] * self._parts
        for change, part in zip(changes, self._tuned, strict=True):
            parts[part] = change
        return jnp.concatenate(parts, axis=-1)


class Ssf(nnx.Module):
    """``scale y + shift`` for every channel of a layer's output.

    References:
      Lian et al., `Scaling & Shifting Your Features
      <https://arxiv.org/abs/2210.08823>`_, NeurIPS 2022
    """

    def __init__(self, channels: int, rngs: nnx.Rngs):
        draw = normal(0.02)
        self.scale = nnx.Param(1 + draw(rngs.params(), (channels,)))
        self.shift = nnx.Param(draw(rngs.params(), (channels,)))

    @per_example
    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        shape = (1,) * (y.ndim - 1) + (-1,)
        scale, shift = (
            vector.astype(y.dtype).reshape(shape)
            for vector in (self.scale[...], self.shift[...])
        )
        return scale * y + shift

    def merge(self, kernel: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns kernel and bias of the layer with this tuner merged.

        The kernel of a normalisation is its scale.
        """
        scale = jnp.broadcast_to(self.scale[...], kernel.shape)
        return kernel * scale, bias * self.scale[...] + self.shift[...]


class Prompts(nnx.Module):
    """Learned tokens after the others; tokens appended by earlier blocks are dropped.

    References:
      Jia et al., `Visual Prompt Tuning <https://arxiv.org/abs/2203.12119>`_, ECCV 2022
    """

    def __init__(self, sizes: Vision, rngs: nnx.Rngs):
        width = sizes.transformer.width
        bound = math.sqrt(6 / (3 * sizes.patch_size**2 + width))
        self.tokens = nnx.Param(uniform(bound)(rngs.params(), (_PROMPTS, width)))
        self._others = sizes.tokens

    @per_example
    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        tokens = self.tokens[...].astype(y.dtype)
        tokens = jnp.broadcast_to(tokens, (len(y), *tokens.shape))
        return jnp.concatenate([y[:, : self._others], tokens], axis=1)


def make_tuners(
    tuners: Sequence[Tuner], sizes: Vision, d: int, dtype: DTypeLike, rngs: nnx.Rngs
) -> MakeTuners:
    """Returns the function that makes a block's tuners; ``full`` and the like add none.

    Args:
      tuners: names; at one place tuners act in this order.
      sizes: sizes of the tower.
      d: the bottleneck.
      dtype: dtype of the computation.
      rngs: source of initial values.
    """

    def of_block(number: int, transformer: Transformer) -> dict[str, list[nnx.Module]]:
        width, hidden = transformer.width, transformer.hidden
        places: dict[str, list[nnx.Module]] = {}

        def add(place, module):
            places.setdefault(place, []).append(module)

        for tuner in tuners:
            match tuner:
                case "vpt_deep":
                    add("input", Prompts(sizes, rngs))
                case "vpt_shallow" if number == 0:
                    add("input", Prompts(sizes, rngs))
                case "adapter":
                    add("mlp", Adapter(width, d, dtype, rngs))
                case "adaptformer":
                    add("mlp", AdaptFormer(width, d, dtype, rngs))
                case "lora":
                    queries_and_values = {"parts": 3, "tuned": (0, 2)}
                    lora = Lora(width, 3 * width, d, dtype, rngs, **queries_and_values)
                    add("qkv", lora)
                case "lora_mlp":
                    add("fc1", Lora(width, hidden, d, dtype, rngs))
                    add("fc2", Lora(hidden, width, d, dtype, rngs))
                case "ssf_attention":
                    add("qkv", Ssf(3 * width, rngs))
                    add("out", Ssf(width, rngs))
                case "ssf_mlp":
                    add("fc1", Ssf(hidden, rngs))
                    add("fc2", Ssf(width, rngs))
                case "ssf_layer_norm":
                    add("ln_1", Ssf(width, rngs))
                    add("ln_2", Ssf(width, rngs))
        return places

    return of_block


def is_tuned(tuners: Sequence[Tuner], path: Sequence[str]) -> bool:
    """Returns whether a parameter of the image tower is trained.

    Args:
      tuners: tuner names.
      path: path of the parameter in the tower, such as ``("block0", "ln_1", "bias")``.
    """
    if not path[0].startswith("block"):
        return False
    return (
        path[1].startswith("tuner_")
        or "full" in tuners
        or ("bias" in tuners and path[-1] == "bias")
        or ("layer_norm" in tuners and path[1] in ("ln_1", "ln_2"))
    )
