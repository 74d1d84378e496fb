"""What a GPT is, `GPTConfig`, and how it is computed, `Execution`."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
from jax.sharding import NamedSharding, PartitionSpec

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
    decode: how decoding reads a token: 'plain', or by 'fused' kernels, which
      'interpreted' runs where there is no GPU; see `model/decode_form.py`.
    fused: whether texts without a cache are computed, and the update is made, as
      `model/fused.py` has it, for compilers that fuse: GPUs', with written gradients
      and layers that no device has a part of.
    update: with `fused`, how LayerNorms before a branch and MLPs of such texts are
      computed: 'plain', or by 'fused' kernels, which 'interpreted' runs where there is
      no GPU; see `model/update_kernels.py`. Kernels take arrays that no mesh cuts.
    rows: where the residual stream is on the devices; None leaves it to the compiler.
      Without it the compiler cuts activations like the parameters that `fsdp` cut, and
      sends them about, where the parameters should be gathered.
    heads: where queries, keys and values [B, N, T, H] are; None: all of those that the
      program knows of are on one device.
    quantized: how few rows are multiplied with weights in 8 or 4 bits; see
      `model/kernels.py`.
    gathered: f(parameters of a layer, or of what is not in layers) -> the same, whole
      but for what `tensor` divides; None: they are.
  """

  dtype: str = 'float32'
  remat: str = 'none'
  scan: bool = False
  gradients: Gradients = 'written'
  kernel: str = 'plain'
  decode: str = 'plain'
  fused: bool = False
  update: str = 'plain'
  rows: NamedSharding | PartitionSpec | None = None
  heads: NamedSharding | PartitionSpec | None = None
  quantized: str = 'plain'
  gathered: Callable[[dict], dict] | None = None

  @classmethod
  def of(
    cls,
    model: config.Model,
    devices: Sequence[jax.Device],
    rows: NamedSharding | None = None,
    heads: NamedSharding | None = None,
  ) -> 'Execution':
    """Returns how to compute `model` on the devices that share a program."""
    kernel, _ = attention_kernel(model, devices)
    decode, _ = decode_kernel(model, devices)
    on_gpu = bool(devices) and devices[0].platform == 'gpu'
    # The form ends products in float32: over `tensor` twice as many bytes are summed.
    divided = rows is not None and rows.mesh.shape.get('tensor', 1) > 1
    fused = on_gpu and model.gradients == 'written' and not divided
    update, _ = update_kernel(model, devices)
    return cls(
      dtype=model.dtype,
      remat=model.remat,
      scan=model.scan,
      gradients=model.gradients,
      kernel=kernel,
      decode=decode,
      fused=fused,
      update=update if fused else 'plain',
      rows=rows,
      heads=heads,
      quantized=kernels.of_quantized(devices).kernel,
    )

  @property
  def joined(self) -> bool:
    """Whether arrays of several layers may be joined: no mesh cuts them."""
    return self.fused and self.rows is None

  @property
  def kernels(self) -> bool:
    """Whether those of `update` take part: arrays are as they are, uncut."""
    return self.joined and self.update != 'plain'

  @property
  def interpret(self) -> bool:
    """Whether they are interpreted."""
    return self.update == 'interpreted'

  def spread(self, x: jax.Array) -> jax.Array:
    """Returns the residual stream, kept where its rows belong."""
    if self.rows is None:
      return x
    return jax.lax.with_sharding_constraint(x, self.rows)

  def by_heads(self, attend: Callable) -> Callable:
    """Returns attention where each device computes its own rows and heads.

    The compiler can divide the plain one by itself, but not every kernel.

    Args:
      attend: f(q, k, v, heads, *rows): [B, N, T, H] thrice, [N], and any [B, ...].
    """
    if self.heads is None or self.kernel == 'plain':
      return attend
    whole = isinstance(self.heads, NamedSharding)  # else of the mesh around the trace
    spec = self.heads.spec if whole else self.heads
    divided = jax.shard_map(
      lambda q, k, v, heads, rows: attend(q, k, v, heads, *rows),
      mesh=self.heads.mesh if whole else None,
      in_specs=(spec, spec, spec, PartitionSpec(*spec[1:2]), PartitionSpec(*spec[:1])),
      out_specs=spec,
      axis_names={axis for part in spec for axis in axes_of(part)},
      check_vma=False,  # kernels do not say over which axes their results vary
    )
    return lambda q, k, v, heads, *rows: divided(q, k, v, heads, rows)


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
    apart=model.documents == 'apart',
  )


def update_kernel(model: config.Model, devices: Sequence[jax.Device]) -> kernels.Choice:
  """Returns how a model's update is computed on some devices, and the reason."""
  return kernels.choose_update(
    model.flash,
    devices,
    dtype=model.dtype,
    D=model.D,
    norm=model.norm,
    activation=model.activation,
  )


def decode_kernel(model: config.Model, devices: Sequence[jax.Device]) -> kernels.Choice:
  """Returns how a model's decoding reads a token on some devices, and the reason."""
  return kernels.choose_decode(
    model.flash,
    devices,
    dtype=model.dtype,
    H=model.D // model.N,
    norm=model.norm,
    activation=model.activation,
  )


def axes_of(part: str | tuple[str, ...] | None) -> tuple[str, ...]:
  """Returns the axes of a mesh that one part of a PartitionSpec names."""
  return (part,) if isinstance(part, str) else part or ()
