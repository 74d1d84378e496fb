"""Cost of a banded attention layer beside a dense one, at T = 2048 and a band of 256.

  python -m benchmarks.attention

Forward and backward of attention alone (N heads of H features, one row), then of a
whole GPT-3 Small layer. The two are timed in turn; a ratio is the median of the rounds'
ratios, so that what else the machine does hits both.
"""

import statistics
import time

import jax
import jax.numpy as jnp

from benchmarks import turns
from gpt_jax.cli.messages import shown
from gpt_jax.config import papers
from gpt_jax.model import attention
from gpt_jax.model.gpt import Block
from gpt_jax.model.gpt_config import Execution, GPTConfig

ROUNDS = 7
T, BAND, N, H = 2048, 256, 12, 64


def contenders() -> dict[str, dict[str, tuple]]:
  """Returns, by what is measured, the compiled gradient and arguments of each."""
  key = jax.random.key(0)
  q = jax.random.normal(key, (1, N, T, H)) / 8

  def dense(q):
    return jnp.square(attention.attend_causal(q, q, q)).sum()

  def banded(q):
    return jnp.square(attention.attend_banded(q, q, q, BAND, None)).sum()

  cfg = GPTConfig.of(papers.gpt3('Small'), 0)
  x = jax.random.normal(key, (1, T, cfg.D))
  layers = {}
  for kind in ('dense', 'banded'):
    block = Block(cfg, Execution(), kind == 'banded')
    params = block.init(key, x)['params']

    def whole(params, x, block=block):
      y, _ = block.apply({'params': params}, x)
      return jnp.square(y).sum()

    layers[kind] = jax.jit(jax.grad(whole)), (params, x)
  return {
    'attention': {
      'dense': (jax.jit(jax.grad(dense)), (q,)),
      'banded': (jax.jit(jax.grad(banded)), (q,)),
    },
    'a layer of GPT-3 Small': layers,
  }


def main() -> None:
  device = jax.devices()[0]
  print(f'{device.device_kind}, jax {jax.__version__}, T = {T}, band {BAND}\n')
  print('| forward and backward | dense, ms | banded, ms | dense / banded |')
  print('|---|---|---|---|')
  for name, pair in contenders().items():
    seconds = {kind: [] for kind in pair}
    for fn, arguments in pair.values():
      jax.block_until_ready(fn(*arguments))
    for _ in range(ROUNDS):
      for kind, (fn, arguments) in pair.items():
        begun = time.perf_counter()
        jax.block_until_ready(fn(*arguments))
        seconds[kind].append(time.perf_counter() - begun)
    ratio = turns.median_ratio(seconds['dense'], seconds['banded'])
    ms = {kind: 1e3 * statistics.median(times) for kind, times in seconds.items()}
    print(f'| {name} | {ms["dense"]:.0f} | {ms["banded"]:.0f} | {ratio:.2f} |')


if __name__ == '__main__':
  with shown():
    main()
