"""A workdir: its paths, its lock, and run.json, which describes its run.

run.json (the config and all that the run was made of), tokenizer/, tokens/ (unless
data.tokens names another folder), checkpoints/, metrics.jsonl, fingerprints.jsonl,
tensorboard/ and samples.txt; held_out.json and eval/ once it was evaluated;
hugging_face.json (`weights.facts`) if it comes from a folder of Hugging Face's.
"""

import contextlib
import fcntl
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.data import fidelity
from gpt_jax.files import MEND, clear_temporaries, field, of_kind, read_json, write_json
from gpt_jax.paths import expand_paths
from gpt_jax.runs import provenance
from gpt_jax.tasks.labelled_table import Task
from gpt_jax.tokenizers.protocol import KIND
from gpt_jax.training import manifest, saved
from gpt_jax.training.metrics_log import read_metrics, seconds_trained

_DIVERGED = 'diverged.json'
_HELD_OUT = {  # fields of a line of held_out.json
  'text': str,
  'text_sha256': str,
  'step': int,
  'int8': bool,
  'weights': str,
  'valid_nll': float,
  'valid_ppl': float,
  'valid_bpb': float,
  'baselines': dict,
  'lost': str,
}
TRAINING = 'training'  # in a seed's workdir: the states that its training resumes from


@contextlib.contextmanager
def alone(workdir: pathlib.Path, *, shared: bool = False) -> Iterator[None]:
  """Locks a workdir against a second training process.

  Args:
    shared: lets in others that share it too: jobs of one sweep.
  """
  with open(workdir / '.lock', 'w') as lock:
    try:
      fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(
        f'workdir={workdir} is in use by another training process; wait for it or '
        'choose another workdir'
      ) from None
    clear_temporaries(workdir)
    yield


def in_use(workdir: pathlib.Path) -> bool:
  """Returns whether a process trains in a workdir, which need not exist yet."""
  if not workdir.exists():
    return False
  try:
    with alone(workdir):
      return False
  except UserError:
    return True


def read_run(workdir: str | pathlib.Path) -> config.Run:
  """Returns the config in a workdir's run.json; raises UserError if it is damaged."""
  path = pathlib.Path(workdir) / 'run.json'
  values = field(read_about(workdir), 'config', dict, path)
  return config.recorded(values, str(path), MEND)


def check_same_run(run: config.Run, workdir: pathlib.Path) -> None:
  """Raises UserError if the workdir holds a run that this one can't resume."""
  if not (workdir / 'run.json').exists():
    if manifest.saved(workdir / 'checkpoints'):
      raise UserError(
        f'workdir={workdir} has checkpoints but no run.json, which says of what run; '
        'put it back, or choose another workdir'
      )
    return
  before = read_run(workdir)
  expand_paths(before)  # as an older version did not
  old, new = config.flat(before), config.flat(run)
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
  """Writes run.json: config, data, and the sessions that trained the run.

  Sessions are appended, so that a run which was resumed by another version, or
  elsewhere, says so. One that is like the last only adds to its `starts`.

  Args:
    data: checksums of the data that it is trained and evaluated on.
    start: updates done when this session begins.
    together: how many runs its program trains.
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
  write_json(path, about)


def read_about(workdir: str | pathlib.Path) -> dict[str, Any]:
  """Returns all that a workdir's run.json says."""
  path = pathlib.Path(workdir) / 'run.json'
  if not path.exists():
    raise UserError(f'{workdir} is no workdir: it has no run.json')
  about = read_json(path)
  for name, kind in {'config': dict, 'vocab': int, 'data': dict}.items():
    if name in about:
      field(about, name, kind, path)
  return about


def text_lost(workdir: str | pathlib.Path) -> str:
  """Returns how a run's tokenizer changes its held-out text, '' if it does not."""
  path = pathlib.Path(workdir)
  record = read_about(path).get('data', {}).get('fidelity', {})
  of_kind(record, dict, path / 'run.json', name='fidelity')
  fidelity.checked(record, f'{path / "run.json"}: fidelity', MEND)
  if record or not (path / 'tokenizer' / KIND).exists():
    return fidelity.lost(record, '')
  kind = read_json(path / 'tokenizer' / KIND)
  return fidelity.lost({}, field(kind, 'kind', str, path / 'tokenizer'))


def sessions(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
  """Returns the sessions that trained a workdir's run, in the order of time.

  Each has `starts`, the numbers of updates from which it began or resumed, argv,
  overrides, config, together (runs in one program) and environment. A run.json older
  than sessions gives one, of what it knows.
  """
  path = pathlib.Path(workdir) / 'run.json'
  about = read_about(workdir)
  if 'sessions' in about:
    for session in field(about, 'sessions', list, path):
      of_kind(session, dict, path, name='a session')
      for name, kind in {'starts': list, 'config': dict, 'environment': dict}.items():
        field(session, name, kind, path)
      for start in session['starts']:
        of_kind(start, int, path, name='starts')
    return about['sessions']
  known = {
    name: about[name] for name in ('git', 'versions', 'devices') if name in about
  }
  if 'python' in of_kind(known.get('versions', {}), dict, path, name='versions'):
    known['python'] = known['versions'].pop('python')
  return [
    {
      'starts': [0],
      'argv': about.get('argv', []),
      'overrides': {},
      'config': field(about, 'config', dict, path),
      'environment': known,
    }
  ]


def keep_held_out(workdir: str | pathlib.Path, line: dict[str, Any]) -> None:
  """Adds a model's loss on held-out text to held_out.json.

  An entry of the same text, update and weights is replaced, but for baselines that were
  not measured again.

  Args:
    line: text (the workdir that holds it out; '': its own), text_sha256, step, int8,
      weights ('int8', 'int4'; '': as trained; by default what int8 says), valid_nll,
      valid_ppl, valid_bpb, baselines (bits/byte by name) and lost (how the tokenizer
      changes that text, '' if it does not).
  """
  line = {'weights': 'int8' if line['int8'] else ''} | line
  same = lambda other: all(  # noqa: E731
    other[name] == line[name] for name in ('text', 'text_sha256', 'step', 'weights')
  )
  before = read_held_out(workdir)
  kept = [other for other in before if not same(other)]
  for other in filter(same, before):
    line = line | {'baselines': other['baselines'] | line['baselines']}
  write_json(pathlib.Path(workdir) / 'held_out.json', [*kept, line])


def read_held_out(workdir: str | pathlib.Path) -> list[dict[str, Any]]:
  """Returns the lines that `keep_held_out` added, in the order of time."""
  path = pathlib.Path(workdir) / 'held_out.json'
  lines = read_json(path, list) if path.exists() else []
  for line in lines:
    # Older ones have neither.
    of_kind(line, dict, path).setdefault('lost', '')
    line.setdefault('weights', 'int8' if line.get('int8') else '')
    for name, kind in _HELD_OUT.items():
      field(line, name, kind, path)
  return lines


def seed_folders(workdir: str | pathlib.Path) -> list[pathlib.Path]:
  """Returns the workdirs of a fine-tuned run's seeds, in their order."""
  folders = [p for p in pathlib.Path(workdir).glob('seed_*') if p.name[5:].isdigit()]
  return sorted(folders, key=lambda folder: int(folder.name[5:]))


def old_groups(workdir: str | pathlib.Path) -> dict[pathlib.Path, list[int]]:
  """Returns the folders of seeds that share a state, with the seeds.

  Only fine-tunings that began before each seed had a state of its own have any: one
  folder for each group that trained together, the workdir itself if there is one.
  """
  workdir = pathlib.Path(workdir)
  path = workdir / 'groups.json'
  if not path.exists():
    return {}
  groups = read_json(path, list)
  if not groups:
    raise UserError(f'{path} is damaged: it names no seeds; {MEND}')
  for group in groups:
    for seed in of_kind(group, list, path) or [None]:
      of_kind(seed, int, path, name='a seed')
  if len(groups) == 1:
    return {workdir: groups[0]}
  return {workdir / f'seeds_{group[0]}_{group[-1]}': group for group in groups}


def logged_folders(workdir: str | pathlib.Path) -> list[pathlib.Path]:
  """Returns where updates are logged: the workdir, or those of its seeds."""
  return list(old_groups(workdir)) or seed_folders(workdir) or [pathlib.Path(workdir)]


def updates_done(workdir: str | pathlib.Path) -> int:
  """Returns the updates that are on disk; with several seeds, the fewest."""
  seeds = [] if old_groups(workdir) else seed_folders(workdir)
  if not seeds:
    return min(map(saved.done, logged_folders(workdir)))
  if len(seeds) < read_run(workdir).seeds:
    return 0
  return min(saved.done(seed, TRAINING) for seed in seeds)


def verified(workdir: str | pathlib.Path) -> Iterator[tuple[str, str, str]]:
  """Yields of each checkpoint its folder, what is wrong ('': nothing) and by what.

  Raises:
    UserError: the workdir has none.
  """
  workdir, number = pathlib.Path(workdir), 0
  for owner in [workdir, *seed_folders(workdir)]:
    for folder in (owner / 'checkpoints', owner / TRAINING):
      for step, why in saved.verify(folder).items():
        own, number = folder / str(step), number + 1
        yield str(own.relative_to(workdir)), why, '' if why else saved.compared(own)
  if not number:
    raise UserError(f'{workdir} has no checkpoint')


def seconds_of_training(workdir: str | pathlib.Path) -> float:
  """Returns the seconds that a run's updates took, with compilation and evaluation.

  Starting up is not counted, nor are updates that a kill undid.
  """
  starts = [start for each in sessions(workdir) for start in each['starts']]
  total = 0.0
  for folder in logged_folders(workdir):
    lines = [line for line in read_metrics(folder) if 'loss' in line]
    total += seconds_trained(lines, starts)
  return total


def best_line(folder: pathlib.Path, task: Task) -> dict[str, float]:
  """Returns the first line of metrics with the best value of a task's metric; or {}."""
  lines = [line for line in read_metrics(folder) if task.metrics[0] in line]
  return max(lines, key=lambda line: line[task.metrics[0]], default={})


def diverged(workdir: pathlib.Path) -> int:
  """Returns the update at which a run of a sweep diverged; 0 if it did not."""
  path = workdir / _DIVERGED
  return field(read_json(path), 'step', int, path) if path.exists() else 0


def mark_diverged(workdir: pathlib.Path, step: int) -> None:
  """Notes that a run of a sweep diverged, so that it is not tried again."""
  write_json(workdir / _DIVERGED, {'step': step})
