"""Makes trajectory.json: the losses of 100 AdamW updates of a GPT in PyTorch.

  pip install torch
  python tests/goldens/make_trajectory.py

The GPT is written here with torch.nn, and nothing of gpt_jax is used. What it trains
from is in tests/trajectory.py.
"""

import json
import math
import pathlib
import sys

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
import trajectory


class Attention(nn.Module):
  """Causal self-attention."""

  def __init__(self, case):
    super().__init__()
    self.heads = case.N
    self.q, self.k, self.v, self.o = (nn.Linear(case.D, case.D) for _ in range(4))

  def forward(self, x):
    B, T, D = x.shape
    q, k, v = (
      f(x).view(B, T, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v)
    )
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return self.o(y.transpose(1, 2).reshape(B, T, D))


class Block(nn.Module):
  """A layer of GPT-1 (LayerNorm after the sum) or of GPT-2 (before the branch)."""

  def __init__(self, case):
    super().__init__()
    self.post = case.paper == 'gpt1'
    self.ln_1, self.ln_2 = nn.LayerNorm(case.D), nn.LayerNorm(case.D)
    self.attn = Attention(case)
    self.mlp = nn.ModuleDict(
      {'up': nn.Linear(case.D, 4 * case.D), 'down': nn.Linear(4 * case.D, case.D)}
    )

  def feed_forward(self, x):
    return self.mlp['down'](F.gelu(self.mlp['up'](x), approximate='tanh'))

  def forward(self, x):
    if self.post:
      x = self.ln_1(x + self.attn(x))
      return self.ln_2(x + self.feed_forward(x))
    x = x + self.attn(self.ln_1(x))
    return x + self.feed_forward(self.ln_2(x))


class GPT(nn.Module):
  """Embeddings, blocks, and an output that is the token embedding again."""

  def __init__(self, case):
    super().__init__()
    self.wte = nn.Embedding(case.vocab, case.D)
    self.wpe = nn.Embedding(case.T, case.D)
    self.h = nn.ModuleList(Block(case) for _ in range(case.L))
    self.ln_f = nn.LayerNorm(case.D) if case.paper == 'gpt2' else nn.Identity()

  def forward(self, ids):
    x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
    for block in self.h:
      x = block(x)
    return self.ln_f(x) @ self.wte.weight.T


def load(model: GPT, weights: dict) -> None:
  """Sets every parameter: a kernel [in, out] is a weight [out, in] of nn.Linear."""
  state = {}
  for name, array in weights.items():
    tensor = torch.tensor(array.T if name.endswith('/kernel') else array)
    name = name.replace('h_', 'h.').replace('/', '.')
    for last in ('.kernel', '.scale'):
      name = name.replace(last, '.weight')
    state[f'{name}.weight' if name in ('wte', 'wpe') else name] = tensor
  model.load_state_dict(state)


def learning_rate(update: int, optim: dict) -> float:
  """Returns the rate of an update, counted from 1: linear warm-up, then a cosine."""
  lr, final_lr, warmup = optim['lr'], optim['final_lr'], optim['warmup']
  if update <= warmup:
    return lr * update / warmup
  done = (update - warmup) / (trajectory.STEPS - warmup)
  return final_lr + (lr - final_lr) * (1 + math.cos(math.pi * done)) / 2


def losses(case: trajectory.Case, decay_all: bool = False) -> list[float]:
  """Returns the loss before each update [nats/token].

  Args:
    case: model and batches.
    decay_all: whether biases and gains decay too, which is wrong.
  """
  model, optim = GPT(case), case.optim
  load(model, trajectory.weights(case))
  spared = [p for p in model.parameters() if p.ndim == 1 and not decay_all]
  decayed = [p for p in model.parameters() if p.ndim > 1 or decay_all]
  adam = torch.optim.AdamW(
    [
      {'params': decayed, 'weight_decay': optim['weight_decay']},
      {'params': spared, 'weight_decay': 0.0},
    ],
    betas=(optim['beta1'], optim['beta2']),
    eps=optim['eps'],
  )
  found = []
  for step in range(trajectory.STEPS):
    for group in adam.param_groups:
      group['lr'] = learning_rate(step + 1, optim)
    ids = torch.tensor(trajectory.batch(case, step))
    loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    adam.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), optim['clip'])
    adam.step()
    found.append(loss.item())
  return found


if __name__ == '__main__':
  made = {'torch': torch.__version__}
  for case in trajectory.SMALL:
    made[case.paper] = losses(case)
    made[f'{case.paper}, all decay'] = losses(case, decay_all=True)
  for case in trajectory.WIDE:
    made[f'{case.paper}, wide'] = losses(case)
  path = pathlib.Path(__file__).with_name('trajectory.json')
  path.write_text(json.dumps(made, indent=1) + '\n')
