"""Speed of training beside PyTorch and Hugging Face.

  pip install -r benchmarks/requirements.txt
  python -m benchmarks.train > benchmarks/results/train-cpu.md
  python -m benchmarks.train --device=gpu --shapes=124M --batch=64,32,16,8

Everyone does whole updates (forward, backward, clipping at 1.0, AdamW with decay on
matrices) of the same GPT from the same weights on the same tokens, dropout 0; their
first losses must agree with ours. Each peer lives in a process of its own. On a CPU,
where compute is float32, it works in turn with ours, round after round: a ratio is the
median of the rounds'. On a GPU, where compute is bfloat16 (PyTorch: autocast), each has
the card to itself, and takes the first of the batches given that fits.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import turns
from gpt_jax import config
from gpt_jax.cli.messages import shown
from gpt_jax.config import papers

CHECKED = 5  # updates whose losses are compared
LIMITS = {'float32': 2e-4, 'bfloat16': 0.05}  # how far apart losses may be
LR, BETAS, DECAY, CLIP = 6e-4, (0.9, 0.95), 0.1, 1.0
OURS, PLAIN = 'gpt_jax', 'gpt_jax, plain attention'


def _gpt2(size, **fields):
  return config.Model(**vars(papers.gpt2(size)) | fields)


# By name: the model, and rows of a batch.
SHAPES = {
  '6 x 384': (config.Model(L=6, D=384, N=6, T=256, vocab=65), 12),
  '4 x 128': (config.Model(L=4, D=128, N=4, T=64, vocab=65), 12),
  'GPT-2 124M, context 256': (_gpt2('124M', T=256), 4),
  '124M': (_gpt2('124M'), 32),
  '1558M': (_gpt2('1558M'), 8),
  'tiny': (config.Model(L=2, D=32, N=2, T=32, vocab=65), 4),
}
ON_CPU = '6 x 384', '4 x 128', 'GPT-2 124M, context 256'


def batches(vocab: int, rows: int, T: int) -> np.ndarray:
  """Returns int32 [number, rows, T + 1]: the tokens that updates take in turn."""
  return np.random.default_rng(0).integers(0, vocab, (8, rows, T + 1), np.int32)


def setup_gpt_jax(
  model: config.Model, rows: int, folder: Path, device: str, flash: str = 'auto'
) -> dict[str, Callable]:
  """Returns our jobs: 'updates' (number) -> losses, and 'device'."""
  del folder, device  # it has the weights that we make here too
  import jax

  from gpt_jax.data.windows import Batch
  from gpt_jax.model.gpt_config import GPTConfig
  from gpt_jax.training import sharding, step
  from gpt_jax.training.members import Alone

  optim = config.Optim(lr=LR, schedule='constant', warmup=0, weight_decay=DECAY)
  model.flash = flash
  run = config.Run(batch=rows, model=model, optim=optim)
  cfg = GPTConfig.of(model, model.vocab)
  layout = sharding.Layout.of(run, jax.devices()[:1])
  program = Alone.of(run, cfg, layout)
  state = layout.new_state(lambda: step.new_state(run, cfg))
  todo = [
    Batch(
      ids_BT=ids[:, :-1],
      y_BT=ids[:, 1:],
      w_BT=np.ones((rows, model.T), np.float32),
      row_B=np.arange(rows, dtype=np.int32),
    )
    for ids in batches(model.vocab, rows, model.T)
  ]
  done = 0

  def updates(number):
    nonlocal state, done
    losses = []
    for _ in range(number):
      state, metrics = program.update(state, program.put([todo[done % len(todo)]]))
      losses.append(metrics['loss'])
      done += 1
    jax.block_until_ready(state)
    return [float(loss) for loss in losses]

  return {'updates': updates, 'device': lambda: jax.devices()[0].device_kind}


def torch_gpt(model: config.Model, vocab: int):
  """Returns nanoGPT's model, written anew, with Hugging Face's names of parameters."""
  import torch.nn.functional as F
  from torch import nn

  class Attention(nn.Module):
    def __init__(self):
      super().__init__()
      self.c_attn = nn.Linear(model.D, 3 * model.D)
      self.c_proj = nn.Linear(model.D, model.D)

    def forward(self, x):
      B, T, D = x.shape
      q, k, v = (
        y.view(B, T, model.N, D // model.N).transpose(1, 2)
        for y in self.c_attn(x).split(D, dim=2)
      )
      y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
      return self.c_proj(y.transpose(1, 2).reshape(B, T, D))

  class MLP(nn.Module):
    def __init__(self):
      super().__init__()
      self.c_fc = nn.Linear(model.D, 4 * model.D)
      self.c_proj = nn.Linear(4 * model.D, model.D)

    def forward(self, x):
      return self.c_proj(F.gelu(self.c_fc(x), approximate='tanh'))

  class Block(nn.Module):
    def __init__(self):
      super().__init__()
      self.ln_1, self.ln_2 = nn.LayerNorm(model.D), nn.LayerNorm(model.D)
      self.attn, self.mlp = Attention(), MLP()

    def forward(self, x):
      x = x + self.attn(self.ln_1(x))
      return x + self.mlp(self.ln_2(x))

  class GPT(nn.Module):
    def __init__(self):
      super().__init__()
      self.wte = nn.Embedding(vocab, model.D)
      self.wpe = nn.Embedding(model.T, model.D)
      self.h = nn.ModuleList(Block() for _ in range(model.L))
      self.ln_f = nn.LayerNorm(model.D)

    def forward(self, ids, targets):
      x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
      for block in self.h:
        x = block(x)
      logits = F.linear(self.ln_f(x), self.wte.weight)
      return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

  return GPT()


def setup_pytorch(
  model: config.Model, rows: int, folder: Path, device: str, compiled: bool
) -> dict[str, Callable]:
  """Returns the jobs of PyTorch, eager or compiled."""
  import safetensors.torch
  import torch

  # On a GPU the vocabulary is a multiple of 128, as nanoGPT advises; the rows more are
  # zeros, and add log(50304 / 50257) = 0.001 to the first loss.
  vocab = -(-model.vocab // 128) * 128 if device == 'gpu' else model.vocab
  net = torch_gpt(model, vocab)
  weights = {}
  for name, tensor in safetensors.torch.load_file(folder / 'model.safetensors').items():
    # Hugging Face stores kernels as [in, out].
    kernel = tensor.ndim == 2 and '.h.' in name
    weights[name.removeprefix('transformer.')] = tensor.T if kernel else tensor
  wte = weights['wte.weight']
  weights['wte.weight'] = torch.nn.functional.pad(wte, (0, 0, 0, vocab - len(wte)))
  net.load_state_dict(weights)
  return torch_jobs(net, model, rows, device, compiled)


def setup_hugging_face(
  model: config.Model, rows: int, folder: Path, device: str, compiled: bool
) -> dict[str, Callable]:
  """Returns the jobs of transformers' GPT2LMHeadModel, eager or compiled."""
  import torch
  import transformers

  transformers.logging.set_verbosity_error()
  gpt2 = transformers.GPT2LMHeadModel.from_pretrained(
    folder,
    # The same function as its own 'gelu_new', in one operation.
    activation_function='gelu_pytorch_tanh',
    use_cache=False,
  )

  class Loss(torch.nn.Module):
    """As many targets as the others have; GPT2LMHeadModel's own loss drops the last."""

    def __init__(self):
      super().__init__()
      self.gpt2 = gpt2

    def forward(self, ids, targets):
      logits = self.gpt2(ids).logits
      return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

  return torch_jobs(Loss(), model, rows, device, compiled)


def torch_jobs(net, model, rows, device, compiled) -> dict[str, Callable]:
  """Returns the jobs that train `net`, whose forward is (ids, targets) -> loss."""
  import torch

  torch.set_num_threads(os.cpu_count())
  torch.set_float32_matmul_precision('high')  # TF32, where there is one
  place = 'cuda' if device == 'gpu' else 'cpu'
  net = net.train().to(place)
  params = list(net.parameters())
  groups = [
    {'params': [p for p in params if p.ndim >= 2], 'weight_decay': DECAY},
    {'params': [p for p in params if p.ndim < 2], 'weight_decay': 0.0},
  ]
  optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=1e-8, fused=True)
  if compiled:
    net = torch.compile(net)
  ids = torch.from_numpy(batches(model.vocab, rows, model.T)).long()
  done = 0

  def updates(number):
    nonlocal done
    losses = []
    for _ in range(number):
      batch = ids[done % len(ids)].to(place)
      with torch.autocast(place, torch.bfloat16, enabled=place == 'cuda'):
        loss = net(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
      loss.backward()
      torch.nn.utils.clip_grad_norm_(params, CLIP)
      optimizer.step()
      optimizer.zero_grad(set_to_none=True)
      losses.append(loss.detach())
      done += 1
    return torch.stack(losses).tolist()

  return {'updates': updates}


PEERS = {
  OURS: (setup_gpt_jax,),
  PLAIN: (setup_gpt_jax, 'plain'),
  'PyTorch, compiled': (setup_pytorch, True),
  'PyTorch, eager': (setup_pytorch, False),
  'Hugging Face, compiled': (setup_hugging_face, True),
  'Hugging Face, eager': (setup_hugging_face, False),
}


class Peer:
  """A peer at work on a shape.

  Attributes:
    losses: of its first updates.
    speeds: tokens/s, of each round.
  """

  def __init__(self, name, model, rows, folder, device):
    setup, *more = PEERS[name]
    self.name, self.rows, self._tokens = name, rows, rows * model.T
    self._worker = turns.Worker(setup, model, rows, folder, device, *more)
    try:
      self.losses, self.speeds = self.run('updates', CHECKED), []
    except RuntimeError:
      self.close()  # or it keeps the memory that a smaller batch needs
      raise
    # A round takes about a second and a half.
    self._updates = max(1, round(3 / turns.seconds([self._worker], 'updates', 2)))

  def run(self, job: str, *arguments):
    self._worker.start(job, *arguments)
    return self._worker.wait()

  def round(self) -> None:
    time.sleep(0.3)  # until the threads of the one before have gone to sleep
    seconds = turns.seconds([self._worker], 'updates', self._updates)
    self.speeds.append(self._tokens * self._updates / seconds)

  def close(self) -> None:
    self._worker.close()


def started(name, model, batch: Sequence[int], folder, device) -> Peer:
  """Returns the peer with the first of the batches that fits."""
  for rows in batch:
    try:
      return Peer(name, model, rows, folder, device)
    except RuntimeError as e:
      why = str(e).strip().splitlines()[0][:100]
  raise RuntimeError(f'batch {rows}: {why}')


def write_weights(model: config.Model, folder: Path) -> None:
  """Writes our initial weights as Hugging Face has them."""
  from gpt_jax.model.gpt import init_params
  from gpt_jax.model.gpt_config import GPTConfig
  from gpt_jax.weights import convert

  cfg = GPTConfig.of(model, model.vocab)
  convert.write(init_params(cfg, 0), cfg, 0.0, 0, folder)


def row(peer: Peer, ours: Peer, dtype: str, flops: float, peak: float | None) -> str:
  """Returns a peer's line of the table."""
  speed = statistics.median(peer.speeds)
  cells = [peer.name, str(peer.rows), f'{speed:,.0f}']
  rate = speed * flops
  cells.append(f'{rate / peak:.1%}' if peak else f'{rate / 1e9:,.0f}')
  if peer is ours:
    return f'| {" | ".join(cells)} | | |'
  cells.append(f'{turns.median_ratio(ours.speeds, peer.speeds):.2f}')
  if peer.rows == ours.rows:
    apart = max(abs(a - b) for a, b in zip(peer.losses, ours.losses, strict=True))
    first = abs(peer.losses[0] - ours.losses[0])
    limit = LIMITS[dtype]
    cells.append(f'{first:.0e}, {apart:.0e}' + ('' if apart < limit else ': NOT EQUAL'))
  else:
    cells.append('other batch')
  return f'| {" | ".join(cells)} |'


def measure(
  model: config.Model, batch: Sequence[int], names: Sequence[str], flags
) -> None:
  """Prints the table of a shape."""
  import jax

  from gpt_jax.model.gpt_config import GPTConfig
  from gpt_jax.runs import cost
  from gpt_jax.training import throughput

  jax.config.update('jax_platforms', 'cpu')  # here; a GPU is the workers'
  flops = sum(cost.flops_per_token(GPTConfig.of(model, model.vocab)).values())
  gpu = flags.device == 'gpu'
  with tempfile.TemporaryDirectory() as place:
    ours = started(OURS, model, batch, Path(place), flags.device)
    kind = ours.run('device')
    peak = throughput.peak_flops(kind, model.dtype) if gpu else None
    print(f'{kind}, {model.dtype}, context {model.T}; first losses: ', end='')
    print(', '.join(f'{loss:.4f}' for loss in ours.losses), end='\n\n')
    used = 'utilisation' if peak else 'GFLOP/s'
    print(f'| | batch | tokens/s | {used} | {OURS} / it | losses apart: first, most |')
    print('|---|---|---|---|---|---|', flush=True)
    if gpu or not names:
      for _ in range(flags.rounds):
        ours.round()
      ours.close()
      print(row(ours, ours, model.dtype, flops, peak), flush=True)
    if names:  # after ours: of 1558M they are 6 GB
      write_weights(model, Path(place))
    for name in names:
      begin = len(ours.speeds)
      try:
        peer = started(name, model, batch, Path(place), flags.device)
      except RuntimeError as e:
        print(f'| {name} | | can not: {e} | | | |', flush=True)
        continue
      for _ in range(flags.rounds):
        if not gpu:
          ours.round()
        peer.round()
      peer.close()
      here = ours
      if not gpu:
        here = argparse.Namespace(**vars(ours) | {'speeds': ours.speeds[begin:]})
      print(row(peer, here, model.dtype, flops, peak), flush=True)
    if not gpu and names:
      ours.close()
      print(row(ours, ours, model.dtype, flops, peak), flush=True)
  print(flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--device', choices=('cpu', 'gpu'), default='cpu')
  parser.add_argument('--shapes', help='semicolons between: ' + '; '.join(SHAPES))
  parser.add_argument('--peers', help='semicolons between: ' + '; '.join(PEERS))
  parser.add_argument('--batch', help='rows, commas between: the first that fits')
  parser.add_argument('--rounds', type=int, default=9)
  flags = parser.parse_args()
  os.environ.setdefault('GLIBC_TUNABLES', 'glibc.malloc.hugetlb=1')  # for everyone
  if flags.device == 'cpu':
    os.environ['JAX_PLATFORMS'] = 'cpu'
  names = [name for name in PEERS if name not in (OURS, PLAIN)]
  shapes = ON_CPU if flags.device == 'cpu' else ('124M', '1558M')
  names = flags.peers.split(';') if flags.peers is not None else names
  shapes = flags.shapes.split(';') if flags.shapes else shapes
  print(f'{platform.machine()}, {os.cpu_count()} cores, Python', end=' ')
  print(platform.python_version(), end='\n\n')
  for name in shapes:
    model, rows = SHAPES[name]
    batch = [int(b) for b in flags.batch.split(',')] if flags.batch else [rows]
    if flags.device == 'gpu':
      model.dtype = 'bfloat16'
    print(f'## {name}\n', flush=True)
    measure(model, batch, [n for n in names if n], flags)


if __name__ == '__main__':
  with shown():
    main()
