"""What two frameworks train from: initial weights, batches and settings, in numpy.

goldens/make_trajectory.py trains a PyTorch GPT from them, test_trajectory.py ours. The
draws are `RandomState`'s, which numpy promises never to change.
"""

from typing import NamedTuple

import numpy as np

STEPS = 100


class Case(NamedTuple):
  """A model, its batches and its learning rate; letters as in docs/design.md."""

  paper: str  # 'gpt1' or 'gpt2'
  L: int
  D: int
  N: int
  T: int
  vocab: int
  B: int
  lr: float

  @property
  def optim(self) -> dict[str, float]:
    """The numbers of AdamW, its schedule and clipping, as `config.Optim` names them."""
    return {
      'lr': self.lr,
      'final_lr': self.lr / 10,
      'warmup': 10,
      'beta1': 0.9,
      'beta2': 0.95,
      'eps': 1e-8,
      'weight_decay': 0.1,
      'clip': 1.0,
    }


SMALL = [
  Case(paper, L=3, D=48, N=3, T=32, vocab=211, B=8, lr=3e-3)
  for paper in ('gpt1', 'gpt2')
]
# The width of both papers' models.
WIDE = [
  Case(paper, L=2, D=768, N=12, T=64, vocab=2003, B=2, lr=3e-4)
  for paper in ('gpt1', 'gpt2')
]


def weights(case: Case) -> dict[str, np.ndarray]:
  """Returns the parameters by the names of `model/gpt.py`, joined by '/'.

  Matrices start as in the papers. Biases and gains are drawn too, so that none can be
  lost or taken for another.
  """
  draw, L, D = np.random.RandomState(0).standard_normal, case.L, case.D
  made = {'wte': draw((case.vocab, D)) * 0.02, 'wpe': draw((case.T, D)) * 0.02}
  norms, linears = ['ln_f'] if case.paper == 'gpt2' else [], {}
  for h in (f'h_{i}' for i in range(L)):
    norms += [f'{h}/ln_1', f'{h}/ln_2']
    linears |= {f'{h}/attn/{name}': (D, D) for name in 'qkvo'}
    linears |= {f'{h}/mlp/up': (D, 4 * D), f'{h}/mlp/down': (4 * D, D)}
  for name in norms:
    made[f'{name}/scale'] = 1 + draw(D) * 0.1
    made[f'{name}/bias'] = draw(D) * 0.1
  for name, (rows, columns) in linears.items():
    residual = name.endswith(('/o', '/down')) and case.paper == 'gpt2'
    made[f'{name}/kernel'] = (
      draw((rows, columns)) * 0.02 / ((2 * L) ** 0.5 if residual else 1)
    )
    made[f'{name}/bias'] = draw(columns) * 0.1
  return {name: array.astype(np.float32) for name, array in made.items()}


def batch(case: Case, step: int) -> np.ndarray:
  """Returns int64 ids [B, T + 1] of an update.

  Each id has two successors, low ids more often than high ones.
  """
  place = np.random.RandomState(1).random_sample((case.vocab, 2)) ** 3
  successors = (place * case.vocab).astype(int)
  draw = np.random.RandomState(2 + step).randint
  ids = draw(case.vocab, size=(case.B, case.T + 1))
  for t in range(case.T):
    ids[:, t + 1] = successors[ids[:, t], draw(2, size=case.B)]
  return ids
