"""A folder with all that small runs of every verb need, and what a run leaves."""

import csv
import dataclasses
import functools
import hashlib
import json
import pathlib
import random
import shutil
import tempfile

import numpy as np

from benchmarks.injected import forked
from gpt_jax.training.metrics_log import CLOCK_FIELDS

_RUN = """
from gpt_jax import config

def get_config():
  return config.Run(
    steps=60, batch=8, log_every=2, eval_every=10, eval_batch=4, sample_tokens=8,
    prompts=('', 'the'), keep=3, devices=1,
    data=config.Data(source='text', tokenizer='bytes', holdout=0.2),
    model=config.Model(L=1, D=16, N=2, T=32, dropout=0.1, norm='post',
      scaled_init=False),
    optim=config.Optim(lr=1e-2, final_lr=1e-3, warmup=5, ema=0.9),
  )
"""
_PREPARE = """
from gpt_jax import config

def get_config():
  return config.Run(
    data=config.Data(source='much', tokenizer='byte_bpe', vocab=300, holdout=0.2),
  )
"""
_FINETUNE = """
from gpt_jax import config
from gpt_jax.config import papers

def get_config():
  run = papers.gpt1_finetuning('sst2')
  return config.from_flat(config.flat(run) | {
    'init_from': 'trained', 'task.data': 'sst2', 'seeds': 2, 'devices': 1, 'batch': 8,
    'log_every': 1, 'optim.lr': 3e-3, 'task.epochs': 3,
  })
"""
_SWEEP = """
from gpt_jax.sweep import grid

RUNS = grid({'optim.lr': [1e-2, 2e-2]})
"""
LEFT_OVER = 'left over'
_WORDS = 'the cat dog sees hears a bird and then good fine nice bad dull cold'.split()


@dataclasses.dataclass(frozen=True)
class Verb:
  """A command whose work is looked at.

  Attributes:
    arguments: of launch.py; {workdir} stands for the workdir's name.
    of: a workdir that it needs, which is copied for it; '': it makes its own.
  """

  arguments: tuple[str, ...]
  of: str = ''

  def of_workdir(self, name: str) -> list[str]:
    """Returns the arguments for a workdir."""
    return [text.format(workdir=name) for text in self.arguments]


VERBS = {
  'train': Verb(('train', '--config=run.py', '--workdir={workdir}')),
  'fine-tuning': Verb(('train', '--config=finetune.py', '--workdir={workdir}')),
  'prepare': Verb(('prepare', '--config=prepare.py', '--workdir={workdir}')),
  'sweep': Verb(
    (
      'sweep',
      '--config=run.py',
      '--config.steps=20',
      '--sweep=sweep.py',
      '--workdir={workdir}',
      '--workers=1',
      '--together=1',  # another program, as after a kill, would round otherwise
    )
  ),
  'eval of tasks': Verb(
    (
      'eval',
      '--tasks=lambada',
      '--data=tasks',
      '--shots=0,1',
      '--workdir={workdir}',
    ),
    of='trained',
  ),
  'eval of text': Verb(('eval', '--baselines', '--workdir={workdir}'), of='trained'),
}


def write(folder: pathlib.Path, megabytes: float) -> None:
  """Makes texts, files of tasks and configs in a new folder.

  Args:
    megabytes: of the text that `prepare` reads.
  """
  folder.mkdir(parents=True)
  rng = random.Random(0)
  sentence = lambda: ' '.join(rng.choices(_WORDS, k=rng.randint(5, 12)))  # noqa: E731
  (folder / 'text').mkdir()
  for i in range(12):
    (folder / f'text/{i:02}.txt').write_text(' '.join(rng.choices(_WORDS, k=80)))
  made = [f'{sentence()}{rng.randint(0, 999)}. ' for _ in range(3000)]
  (folder / 'much').mkdir()
  each = int(megabytes * 1e6 / 40 / (sum(map(len, made)) / len(made)))
  for i in range(40):
    (folder / f'much/{i:02}.txt').write_text(''.join(rng.choices(made, k=each)))
  (folder / 'sst2').mkdir()
  for split, number in (('train', 61), ('dev', 20)):
    lines = [f'{sentence()} {("bad", "good")[i % 2]}\t{i % 2}\n' for i in range(number)]
    (folder / f'sst2/{split}.tsv').write_text('sentence\tlabel\n' + ''.join(lines))
  (folder / 'tasks/lambada').mkdir(parents=True)
  for name, number in (('development', 30), ('test', 150)):
    lines = [json.dumps({'text': sentence()}) + '\n' for _ in range(number)]
    (folder / f'tasks/lambada/lambada_{name}.jsonl').write_text(''.join(lines))
  for name, text in (
    ('run', _RUN),
    ('prepare', _PREPARE),
    ('finetune', _FINETUNE),
    ('sweep', _SWEEP),
  ):
    (folder / f'{name}.py').write_text(text)


def left(folder: pathlib.Path) -> dict[str, str]:
  """Returns what a command left in a workdir, as texts that can be compared, by name.

  Left out is what belongs to the clock or to a process: fields of metrics.jsonl and
  sweep.csv, sessions of run.json, events, logs and locks; and damaged checkpoints that
  were moved aside. Of checkpoints it is the
  values of the tensors, read by Orbax alone, and the loss beside them.
  """
  found = {}
  for path in sorted(folder.rglob('*')):
    name = str(path.relative_to(folder))
    parts = path.relative_to(folder).parts
    aside = any(part.endswith('.damaged') for part in parts)
    if aside or not path.is_file() or {'tensorboard', 'logs'} & {*parts}:
      continue
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if number is not None:
      step = pathlib.Path(*parts[: number + 1])
      if str(step) not in found:
        found[str(step)] = _checkpoint(folder / step)
    elif path.name != '.lock':
      found[name] = _text(path, folder.name)
  return found


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
  """Returns the names of what differs, is missing, or was left over."""
  return [
    f'{name} is {_what(expected, found, name)}'
    for name in sorted({*expected, *found})
    if expected.get(name) != found.get(name)
  ]


def fresh(verb: Verb, place: pathlib.Path, name: str) -> pathlib.Path:
  """Returns a new workdir for a verb, which need not exist yet."""
  workdir = place / name
  shutil.rmtree(workdir, ignore_errors=True)
  if verb.of:
    shutil.copytree(place / verb.of, workdir)
  return workdir


def undisturbed(place: pathlib.Path, name: str) -> dict[str, str]:
  """Returns what a verb leaves that nothing disturbs.

  Raises:
    RuntimeError: it fails.
  """
  verb = VERBS[name]
  workdir = fresh(verb, place, f'undisturbed {name}'.replace(' ', '_'))
  ended = forked.run(place, *verb.of_workdir(workdir.name))
  if ended.code:
    raise RuntimeError(f'{name}: exit {ended.code}\n{ended.out}\n{ended.err}')
  return forked.apart(left, workdir)


@functools.cache
def wanted(folder: pathlib.Path, name: str) -> dict[str, str]:
  """Returns `undisturbed`, of one time."""
  return undisturbed(folder, name)


def _what(expected: dict[str, str], found: dict[str, str], name: str) -> str:
  if name not in found:
    return 'missing'
  return 'different' if name in expected else LEFT_OVER


def _text(path: pathlib.Path, workdir: str) -> str:
  """Returns a file's text without clocks and its workdir's name, or a hash of it."""
  if path.name == 'metrics.jsonl':
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [{k: v for k, v in x.items() if k not in CLOCK_FIELDS} for x in lines]
    return '\n'.join(map(json.dumps, kept))
  if path.name == 'run.json':
    about = json.loads(path.read_text())
    kept = {name: about[name] for name in ('config', 'vocab', 'data')}
    return json.dumps(kept).replace(workdir, 'WORKDIR')
  if path.name == 'sweep.csv':
    rows = list(csv.DictReader(path.open()))
    return '\n'.join(str({k: v for k, v in r.items() if k != 'seconds'}) for r in rows)
  data = path.read_bytes().replace(workdir.encode(), b'WORKDIR')
  return hashlib.sha256(data).hexdigest()


def _checkpoint(folder: pathlib.Path) -> str:
  """Returns a hash of the tensors of a checkpoint, and its loss."""
  import jax
  import orbax.checkpoint as ocp
  from absl import logging

  logging.set_verbosity(logging.FATAL)
  handler = ocp.PyTreeCheckpointHandler()
  whole = hashlib.sha256()
  for item in ('params', 'rest', 'ema'):
    if not (folder / item).is_dir():
      continue
    with tempfile.TemporaryDirectory() as scratch:
      # Without the devices that it was on, which it is not read to.
      copy = pathlib.Path(scratch) / item
      shutil.copytree(folder / item, copy, ignore=shutil.ignore_patterns('_sharding'))
      tree = handler.metadata(copy).tree
      plain = ocp.RestoreArgs(restore_type=np.ndarray)
      args = jax.tree.map(lambda _, plain=plain: plain, tree)
      tree = handler.restore(copy, args=ocp.args.PyTreeRestore(restore_args=args))
    for path, value in jax.tree_util.tree_leaves_with_path(tree):
      name = f'{item} {jax.tree_util.keystr(path)} {value.shape} {value.dtype}'
      whole.update(name.encode() + value.tobytes())
  about = folder / 'manifest.json'
  loss = json.loads(about.read_text())['nll'] if about.exists() else 'no manifest'
  return f'{whole.hexdigest()} {loss}'
