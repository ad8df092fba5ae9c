"""The transformer blocks of both towers, with places for tuners."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from experiments.models.clip.architecture import Transformer
from experiments.models.layers import per_example

# Makes a block's tuners: (number of the block, its sizes) -> modules by place.
MakeTuners = Callable[[int, Transformer], dict[str, list[nnx.Module]]]

_zeros = nnx.initializers.zeros


class LayerNorm(nnx.LayerNorm):
    """Layer normalisation in float32 or wider; the result has the input's dtype.

    CLIP does the same, at any dtype of other layers.
    """

    def __init__(self, width: int, rngs: nnx.Rngs):
        super().__init__(width, epsilon=1e-5, use_fast_variance=False, rngs=rngs)

    @per_example
    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x).astype(x.dtype)


class _Dense(nnx.Linear):
    __call__ = per_example(nnx.Linear.__call__)


def dense(
    inputs: int,
    outputs: int,
    rngs: nnx.Rngs,
    *,
    dtype: DTypeLike,
    use_bias: bool = True,
    kernel_init: nnx.Initializer = _zeros,
) -> nnx.Linear:
    """Makes a layer ``x @ kernel + bias`` of zeros; weights are set later."""
    return _Dense(
        inputs,
        outputs,
        use_bias=use_bias,
        kernel_init=kernel_init,
        dtype=None if dtype == jnp.float32 else dtype,
        rngs=rngs,
    )


class Block(nnx.Module):
    """Attention, then an MLP; each reads the normalised input and is added to it.

    The places for tuners are ``input``, ``ln_1``, ``qkv``, ``out``, ``ln_2``, ``fc1``,
    ``fc2`` and ``mlp``. A tuner maps the input and output of a layer to a new output.
    ``mlp`` is the whole second half; its input is not yet normalised.
    """

    def __init__(
        self,
        sizes: Transformer,
        tuners: dict[str, list[nnx.Module]],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        width, hidden = sizes.width, sizes.hidden
        self.ln_1 = LayerNorm(width, rngs)
        self.qkv = dense(width, 3 * width, rngs, dtype=dtype)
        self.out = dense(width, width, rngs, dtype=dtype)
        self.ln_2 = LayerNorm(width, rngs)
        self.fc1 = dense(width, hidden, rngs, dtype=dtype)
        self.fc2 = dense(hidden, width, rngs, dtype=dtype)
        self._heads = sizes.heads
        self._activation = activation(sizes.activation)
        self._tuners = {}
        for place, modules in tuners.items():
            names = [f"tuner_{place}_{i}" for i in range(len(modules))]
            for name, module in zip(names, modules, strict=True):
                setattr(self, name, module)
            self._tuners[place] = tuple(names)

    @property
    def tuners(self) -> dict[str, list[nnx.Module]]:
        """The tuners by place, in the order in which they act."""
        return {
            place: [getattr(self, name) for name in names]
            for place, names in self._tuners.items()
        }

    def __call__(self, x: jax.Array, *, causal: bool) -> jax.Array:
        x = self._tuned("input", x, x)
        y = self._tuned("ln_1", x, self.ln_1(x))
        y = self._tuned("qkv", y, self.qkv(y))
        y = self._attend(y, causal)
        x = x + self._tuned("out", y, self.out(y))
        y = self._tuned("ln_2", x, self.ln_2(x))
        y = self._activation(self._tuned("fc1", y, self.fc1(y)))
        y = self._tuned("fc2", y, self.fc2(y))
        return x + self._tuned("mlp", x, y)

    def _tuned(self, place, x, y):
        for name in self._tuners.get(place, ()):
            y = getattr(self, name)(x, y)
        return y

    def _attend(self, qkv, causal):
        batch, tokens, _ = qkv.shape
        qkv = qkv.reshape(batch, tokens, 3, self._heads, -1)
        y = jax.nn.dot_product_attention(
            qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], is_causal=causal
        )
        return y.reshape(batch, tokens, -1)


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the function ``hidden_act``; ``quick_gelu`` is x sigmoid(1.702 x)."""
    if name == "quick_gelu":
        return lambda x: x * jax.nn.sigmoid(1.702 * x)
    return lambda x: jax.nn.gelu(x, approximate=False)
