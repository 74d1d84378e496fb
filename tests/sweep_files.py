"""Folders of sweeps: an experiment, a text and a sweep file; and made-up runs."""

import json
import random
import sys

from ml_collections import config_flags

import launch
from gpt_jax import config
from gpt_jax.sweep import run

EXPERIMENT = """
from gpt_jax import config

def get_config():
  return config.Run(
    steps=1200, batch=4, devices=1, log_every=2, eval_every=100, eval_batch=4,
    sample_tokens=0,
    data=config.Data(source='text.txt', tokenizer='chars', holdout=0.2),
    model=config.Model(L=1, D=8, N=2, T=8),
    optim=config.Optim(lr=1e-2, final_lr=1e-3, warmup=5, clip=0),
  )
"""


def write(folder):
  """Writes tiny.py and its text into a folder, in which a test then runs."""
  (folder / 'tiny.py').write_text(EXPERIMENT)
  rng = random.Random(0)
  words = 'the cat dog sees hears a bird and then'.split()
  (folder / 'text.txt').write_text(' '.join(rng.choice(words) for _ in range(400)))


def planned(monkeypatch, text, folder='sweep', *overrides):
  """Returns the sweep that launch.py makes here of a sweep file with this text."""
  with open('sweep.py', 'w') as file:
    file.write(f'from gpt_jax.sweep import *\n{text}\n')
  arguments = ['--config=tiny.py', *overrides, '--sweep=sweep.py']
  arguments.append(f'--workdir={folder}')
  # config_flags looks for overrides there.
  monkeypatch.setattr(sys, 'argv', ['launch.py', 'sweep', *arguments])
  values = launch._parse('sweep', arguments)
  return run.planned(
    'sweep.py',
    base=values.config,
    given=config_flags.get_override_values(values['config']),
    config_file='tiny.py',
    folder=folder,
    argv=sys.argv,
  )


def made_up(entry, losses=(2.0, 1.5), done=True):
  """Writes a run's folder as a run would, with the given held-out losses."""
  entry.workdir.mkdir(parents=True)
  about = {'config': config.flat(entry.run), 'vocab': 16, 'git': {'commit': 'abc'}}
  (entry.workdir / 'run.json').write_text(json.dumps(about))
  clock = {'seconds': 2.5, 'input_ms': 0, 'compute_ms': 1, 'other_ms': 0}
  lines, steps = [], entry.run.steps
  for i, nll in enumerate(losses, 1):
    step = steps * i // len(losses)
    lines.append({'step': step, 'loss': nll, **clock})
    lines.append({'step': step, 'valid_nll': nll, 'valid_bpb': nll / 0.7})
  (entry.workdir / 'metrics.jsonl').write_text(
    ''.join(json.dumps(line) + '\n' for line in lines)
  )
  if done:
    (entry.workdir / 'checkpoints' / str(steps) / 'params').mkdir(parents=True)
