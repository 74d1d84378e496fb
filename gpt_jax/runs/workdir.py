"""A workdir: what it holds, and how it is opened.

run.json (the config and all that the run was made of), tokenizer/, tokens/ (unless
data.tokens names another folder), checkpoints/, metrics.jsonl, fingerprints.jsonl,
tensorboard/ and samples.txt; held_out.json and eval/ once it was evaluated.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError
from gpt_jax.data import prepare, token_files
from gpt_jax.files import write_whole
from gpt_jax.inference import hugging_face
from gpt_jax.inference.classifier import Classifier
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPTConfig, init_params
from gpt_jax.runs import provenance
from gpt_jax.tasks.labelled_table import TASKS, Task
from gpt_jax.training import checkpoint, task_step
from gpt_jax.training.metrics_log import read_metrics, seconds_trained


class Prepared(NamedTuple):
  """The tokens of a run."""

  tokenizer: tokenizers.Tokenizer
  train: token_files.TokenFile
  valid: token_files.TokenFile

  def digests(self) -> dict[str, Any]:
    """Returns checksums of the tokens, the tokenizer, the text and its files."""
    return {
      'train': self.train.digest,
      'valid': self.valid.digest,
      'tokenizer': self.train.tokenizer,
      'text': self.train.text,
      'valid_text': self.valid.text,
      'files': self.train.files | self.valid.files,
    }


def prepared(
  run: config.Run, workdir: pathlib.Path, report: Callable[[str], None] = print
) -> Prepared:
  """Returns the tokenizer and tokens of a run, made first where they are missing.

  With `init_from` the tokenizer is that run's, copied once. Where data.tokens names
  another folder, the tokenizer is copied into the workdir, which so stays complete.
  """
  if not run.data.source:
    raise UserError(
      f"data.source='' names no text for {workdir}; set --config.data.source. If these "
      'are imported weights, train and evaluate in a new workdir that starts from '
      f'them: --config.init_from={workdir}'
    )
  folder = pathlib.Path(run.data.tokens or workdir)
  own = pathlib.Path(workdir) / 'tokenizer'
  given = None
  if run.init_from:
    given = own if own.exists() else pathlib.Path(run.init_from) / 'tokenizer'
  prepare.prepare(run.data, folder, report=report, tokenizer=given)
  made = folder / 'tokenizer'
  if not own.exists():
    staged = own.with_name(f'.tokenizer.{os.getpid()}.tmp')
    shutil.copytree(made, staged, dirs_exist_ok=True)
    staged.rename(own)
  files = [
    token_files.open_tokens(folder / 'tokens' / part) for part in ('train', 'valid')
  ]
  digest = tokenizers.digest(own)
  if any(file.tokenizer != digest for file in files):
    raise UserError(
      f'{own} is not the tokenizer that made {folder / "tokens"}; remove the one that '
      'does not belong there'
    )
  return Prepared(tokenizers.load(own), *files)


@contextlib.contextmanager
def alone(workdir: pathlib.Path, *, shared: bool = False) -> Iterator[None]:
  """Keeps a second process from training in the same workdir.

  Args:
    workdir: is there.
    shared: whether others that share it too may be in it: jobs of one sweep.
  """
  with open(workdir / '.lock', 'w') as lock:
    try:
      fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(
        f'workdir={workdir} is in use by another training process; wait for it or '
        'choose another workdir'
      ) from None
    yield


def in_use(workdir: pathlib.Path) -> bool:
  """Returns whether a process trains in a workdir, which need not be there yet."""
  if not workdir.exists():
    return False
  try:
    with alone(workdir):
      return False
  except UserError:
    return True


def read_run(workdir: str | pathlib.Path) -> config.Run:
  """Returns the config in a workdir's run.json."""
  try:
    return config.from_flat(read_about(workdir)['config'])
  except (KeyError, TypeError) as error:
    path = pathlib.Path(workdir) / 'run.json'
    raise UserError(f'{path} is damaged: {error!r}') from error


def check_same_run(run: config.Run, workdir: pathlib.Path) -> None:
  """Raises UserError where the workdir holds a run that this one does not continue."""
  if not (workdir / 'run.json').exists():
    if checkpoint.done(workdir):
      raise UserError(
        f'workdir={workdir} has checkpoints but no run.json, which says of what run; '
        'put it back, or choose another workdir'
      )
    return
  old, new = config.flat(read_run(workdir)), config.flat(run)
  differing = [
    f'{name}: {old[name]!r} there, {new[name]!r} now'
    for name in new
    if old[name] != new[name] and name not in config.FREE_ON_RESUME
  ]
  if differing:
    raise UserError(
      f'workdir={workdir} holds another run; choose another workdir, or run it with '
      'the same config\n' + '\n'.join(differing)
    )


def write_run_json(
  run: config.Run,
  workdir: pathlib.Path,
  *,
  vocab: int,
  data: dict[str, Any],
  devices: Sequence[jax.Device],
  argv: Sequence[str],
  overrides: dict[str, Any] | None = None,
  start: int = 0,
  together: int = 1,
) -> None:
  """Writes what the run is made of.

  Sessions are added to those that the workdir knows, so that a run which went on with
  another version, or elsewhere, says so. One that is like the last only adds to its
  `starts`.

  Args:
    run: its config.
    workdir: where to.
    vocab: the tokenizer's entries.
    data: checksums of what it is trained and judged on.
    devices: that it uses.
    argv: the command.
    overrides: the fields that the command set.
    start: updates done when this session begins.
    together: runs that one program trains, this one with others.
  """
  path = workdir / 'run.json'
  before = sessions(workdir) if path.exists() else []
  session = {
    'argv': list(argv),
    'overrides': overrides or {},
    'config': config.flat(run),
    'together': together,
    'environment': provenance.now(devices),
  }
  session = json.loads(json.dumps(session))  # as the ones before were read
  if before and {**before[-1], 'starts': 0} == {**session, 'starts': 0}:
    before[-1]['starts'].append(start)
  else:
    before.append({'starts': [start], **session})
  about = {
    'config': config.flat(run),
    'vocab': vocab,
    'data': data,
    'sessions': before,
  }
  write_whole(path, json.dumps(about, indent=1) + '\n')


def read_about(workdir: str | pathlib.Path) -> dict[str, Any]:
  """Returns all that a workdir's run.json says."""
  path = pathlib.Path(workdir) / 'run.json'
  if not path.exists():
    raise UserError(f'{workdir} is no workdir: it has no run.json')
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except json.JSONDecodeError as error:
    raise UserError(f'{path} is damaged: {error!r}') from error


def sessions(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
  """Returns by what a workdir's run was trained, in the order of time.

  Each has `starts`, the numbers of updates from which it began or went on, argv,
  overrides, config, together (runs in one program) and environment. Of a run.json
  older than sessions, what it knows.
  """
  about = read_about(workdir)
  if 'sessions' in about:
    return about['sessions']
  known = {
    name: about[name] for name in ('git', 'versions', 'devices') if name in about
  }
  if 'python' in known.get('versions', {}):
    known['python'] = known['versions'].pop('python')
  return [
    {
      'starts': [0],
      'argv': about.get('argv', []),
      'overrides': {},
      'config': about['config'],
      'environment': known,
    }
  ]


def keep_held_out(workdir: str | pathlib.Path, line: dict[str, Any]) -> None:
  """Adds what a model was found to lose on held-out text to held_out.json.

  What it says already of the same text, workdir, update and weights is replaced, but
  for baselines that were not measured again.

  Args:
    workdir: of the model.
    line: text (the workdir that holds it out; '': its own), text_sha256, step, int8,
      valid_nll, valid_ppl, valid_bpb and baselines (bits/byte by name).
  """
  same = lambda other: all(  # noqa: E731
    other[name] == line[name] for name in ('text', 'text_sha256', 'step', 'int8')
  )
  before = read_held_out(workdir)
  kept = [other for other in before if not same(other)]
  for other in filter(same, before):
    line = line | {'baselines': other['baselines'] | line['baselines']}
  text = json.dumps([*kept, line], indent=1) + '\n'
  write_whole(pathlib.Path(workdir) / 'held_out.json', text)


def read_held_out(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
  """Returns what `keep_held_out` was told, in the order of time."""
  path = pathlib.Path(workdir) / 'held_out.json'
  return json.loads(path.read_text(encoding='utf-8')) if path.exists() else []


def load(
  path: str | pathlib.Path, checkpoint_step: str | int = 'best'
) -> LanguageModel:
  """Returns the `LanguageModel` in a workdir or a folder of weights.

  Of a workdir that was fine-tuned on a task it is a `Classifier`, the best seed's; the
  others are in the folders seed_N.

  Args:
    path: a workdir, a Hugging Face folder, or hf:NAME@REVISION (see `hugging_face`).
    checkpoint_step: of a workdir: 'best' (lowest held-out loss; of a task, the epoch
      with the best metric), 'latest', or a number of updates.

  Raises:
    UserError: `path` is neither, or has no such checkpoint.
  """
  workdir = pathlib.Path(path)
  if not (workdir / 'run.json').exists() and hugging_face.names_weights(path):
    return hugging_face.open_model(path)[1]
  run = read_run(workdir)
  task = TASKS.get(run.task.name)
  if task and (workdir / 'groups.json').exists():
    workdir = _best_seed(workdir, task)
  tokenizer = tokenizers.load(workdir / 'tokenizer')
  cfg = GPTConfig.of(run.model, tokenizer.vocab)
  averaged = bool(run.optim.ema)
  if not task:
    like = jax.eval_shape(lambda: init_params(cfg, 0))
    params, step = _restored(workdir, checkpoint_step, like, averaged)
    return LanguageModel(params, cfg, tokenizer, step)
  cfg = task_step.grown(cfg)
  like = jax.eval_shape(
    lambda: {
      'gpt': init_params(cfg, 0),
      'clf': task_step.new_head(task, cfg.D, jax.random.key(0)),
    }
  )
  tree, step = _restored(workdir, checkpoint_step, like, averaged)
  return Classifier(tree['gpt'], cfg, tokenizer, step, tree['clf'], task)


def group_folder(
  workdir: pathlib.Path, groups: list[list[int]], group: list[int]
) -> pathlib.Path:
  """Returns where seeds that train together keep their metrics and checkpoints."""
  if len(groups) == 1:
    return workdir
  return workdir / f'seeds_{group[0]}_{group[-1]}'


def trained_folders(workdir: str | pathlib.Path) -> list[pathlib.Path]:
  """Returns where updates are recorded: the workdir, or a folder for each group."""
  workdir = pathlib.Path(workdir)
  path = workdir / 'groups.json'
  if not path.exists():
    return [workdir]
  groups = json.loads(path.read_text(encoding='utf-8'))
  return [group_folder(workdir, groups, group) for group in groups]


def updates_done(workdir: str | pathlib.Path) -> int:
  """Returns the updates that are on disk: of groups of seeds, the least."""
  return min(map(checkpoint.done, trained_folders(workdir)))


def seconds_of_training(workdir: str | pathlib.Path) -> float:
  """Returns the seconds that a run's updates took, with compilation and evaluation.

  Starting up is not in them, nor is what a kill undid.
  """
  starts = [start for each in sessions(workdir) for start in each['starts']]
  total = 0.0
  for folder in trained_folders(workdir):
    lines = [line for line in read_metrics(folder) if 'loss' in line]
    total += seconds_trained(lines, starts)
  return total


def seed_folders(workdir: pathlib.Path) -> list[pathlib.Path]:
  """Returns the workdirs of a fine-tuned run's seeds, in their order."""
  found = [p for p in workdir.glob('seed_*') if p.name[5:].isdigit()]
  return sorted(found, key=lambda folder: int(folder.name[5:]))


def best_line(folder: pathlib.Path, task: Task) -> dict[str, float]:
  """Returns the first line of metrics with the best value of a task's metric; or {}."""
  lines = [line for line in read_metrics(folder) if task.metrics[0] in line]
  return max(lines, key=lambda line: line[task.metrics[0]], default={})


def _best_seed(workdir: pathlib.Path, task: Task) -> pathlib.Path:
  """Returns the folder of the seed that is best on dev, the first of equals."""
  judged = [f for f in seed_folders(workdir) if best_line(f, task)]
  if not judged:
    raise UserError(f'{workdir} has no model yet: no epoch is done; train it first')
  return max(judged, key=lambda folder: best_line(folder, task)[task.metrics[0]])


def _restored(
  workdir: pathlib.Path, wanted: str | int, like: dict, averaged: bool
) -> tuple[dict, int]:
  """Returns the parameters of a checkpoint, and the number of its updates."""
  if not (workdir / 'checkpoints').is_dir():
    raise UserError(f'{workdir} has no checkpoint yet; train it first')
  saved = checkpoint.Checkpoints(workdir / 'checkpoints')  # to read: keeps all
  try:
    kept = saved.steps()
    step = {'best': saved.best(), 'latest': saved.latest()}.get(wanted, wanted)
    if not kept or (isinstance(step, str) and not step.isdigit()):
      step = None
    if step is None or int(step) not in kept:
      raise UserError(
        f'{workdir} has no checkpoint {wanted!r}; there are best, latest and '
        f'{", ".join(map(str, kept)) or "none"}'
      )
    return saved.restore_params(int(step), like, averaged=averaged), int(step)
  finally:
    saved.close()
