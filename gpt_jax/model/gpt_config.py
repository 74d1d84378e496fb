"""What a GPT is, `GPTConfig`, and how it is computed, `Execution`."""

import dataclasses
from collections.abc import Sequence

import jax

from gpt_jax import config
from gpt_jax.model import kernels
from gpt_jax.model.gradients import Gradients


@dataclasses.dataclass(frozen=True)
class GPTConfig:
  """The architecture of a model: which function its parameters are.

  Attributes: as in `config.Model`, with vocab and F filled in; attention is one of
    'dense' and 'banded' for each layer.
  """

  vocab: int
  L: int
  D: int
  N: int
  F: int
  T: int
  norm: str
  activation: str
  attention: tuple[str, ...]
  band: int
  attention_scale: bool
  tied: bool
  bias: bool
  qkv_bias: bool
  scaled_init: bool
  dropout_wte: bool
  mup_base: int
  mup_base_N: int

  @classmethod
  def of(cls, model: config.Model, vocab: int) -> 'GPTConfig':
    """Returns the architecture of `model` for a tokenizer of `vocab` entries."""
    pattern = model.attention.split(',')
    filled = {
      'vocab': model.vocab or vocab,
      'F': model.F or 4 * model.D,
      'attention': tuple(pattern[i % len(pattern)] for i in range(model.L)),
    }
    names = [field.name for field in dataclasses.fields(cls)]
    return cls(**{name: getattr(model, name) for name in names} | filled)

  @property
  def V(self) -> int:
    """Rows of `wte`: the vocabulary rounded up to a multiple of 128."""
    return -(-self.vocab // 128) * 128

  @property
  def H(self) -> int:
    """Features of a head."""
    return self.D // self.N

  @property
  def width(self) -> float:
    """The width over that of the base model; 1 in the standard parametrisation."""
    return self.D / (self.mup_base or self.D)

  @property
  def query_scale(self) -> float:
    """What queries are multiplied by: 1 / sqrt(H), or 1 where attention isn't scaled.

    Attention logits are to go as 1 / H (Tensor Programs V, section 4 and definition
    4.1), so that much more shrinks them where heads are larger than the base model's.
    """
    base_H = self.mup_base // self.mup_base_N if self.mup_base_N else self.H
    return (base_H**-0.5 if self.attention_scale else 1.0) * (base_H / self.H)


@dataclasses.dataclass(frozen=True)
class Execution:
  """How a model is computed: the same function, but for rounding.

  Attributes:
    dtype, remat, scan, gradients: as in `config.Model`.
    kernel: of attention of a text to itself; see `model/kernels.py`.
    rows: where the residual stream is on the devices; None leaves it to the compiler.
      Without it the compiler cuts activations like the parameters that `fsdp` cut, and
      sends them about, where the parameters should be gathered.
    quantized: how few rows are multiplied with weights in 8 or 4 bits; see
      `model/kernels.py`.
  """

  dtype: str = 'float32'
  remat: str = 'none'
  scan: bool = False
  gradients: Gradients = 'written'
  kernel: str = 'plain'
  rows: jax.sharding.Sharding | None = None
  quantized: str = 'plain'

  @classmethod
  def of(
    cls,
    model: config.Model,
    devices: Sequence[jax.Device],
    rows: jax.sharding.Sharding | None = None,
  ) -> 'Execution':
    """Returns how to compute `model` on the devices that share a program."""
    kernel, _ = attention_kernel(model, devices)
    how = model.dtype, model.remat, model.scan, model.gradients, kernel, rows
    return cls(*how, kernels.of_quantized(devices).kernel)

  def spread(self, x: jax.Array) -> jax.Array:
    """Returns the residual stream, kept where its rows belong."""
    if self.rows is None:
      return x
    return jax.lax.with_sharding_constraint(x, self.rows)


def attention_kernel(
  model: config.Model, devices: Sequence[jax.Device]
) -> kernels.Choice:
  """Returns the kernel of a model's attention on some devices, and the reason."""
  return kernels.choose(
    model.flash,
    devices,
    dtype=model.dtype,
    gradients=model.gradients,
    T=model.T,
    H=model.D // model.N,
    dropout=model.dropout > 0,
  )
