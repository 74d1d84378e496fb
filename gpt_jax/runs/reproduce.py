"""Trains a run again from its run.json alone, and compares the two."""

import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.runs import finetune_job, provenance, train
from gpt_jax.runs.load import load
from gpt_jax.runs.tokens import prepared
from gpt_jax.runs.workdir import check_same_run, read_about, read_run, sessions
from gpt_jax.training import checksums, manifest, saved, sharding
from gpt_jax.training.metrics_log import CLOCK_FIELDS, read_checksums, read_metrics

# Fields of `FREE_ON_RESUME` that change numbers, if only by rounding.
_NUMBERS = (
  *config.fields_with('execution', 'length', of=''),
  *config.fields_with('execution', of='model'),
)
_WORDS = {
  'train': 'training tokens',
  'valid': 'held-out tokens',
  'dev': 'dev examples',
  'tokenizer': 'tokenizer',
  'text': 'text of data.source',
  'valid_text': 'held-out text, or what it was split off',
  'source': 'weights of init_from',
}


class Part(NamedTuple):
  """Updates of a run that one session did, those from `first` + 1 to `last`.

  Attributes:
    first: updates done when it began.
    last: updates done when the next one began; infinite of the last session.
  """

  session: dict[str, Any]
  first: int
  last: float


def parts(workdir: str | pathlib.Path) -> list[Part]:
  """Returns which session did which updates of a run.

  Updates after the checkpoint from which the next session resumed are not part of the
  run, so a session whose checkpoints were all lost is left out.
  """
  begun = [(start, s) for s in sessions(workdir) for start in s['starts']]
  parts_done: list[Part] = []
  for i, (start, session) in enumerate(begun):
    last = min((later for later, _ in begun[i + 1 :]), default=math.inf)
    if parts_done and parts_done[-1].session is session and start < last:
      parts_done[-1] = parts_done[-1]._replace(last=last)
    elif start < last:
      parts_done.append(Part(session, start, last))
  return parts_done


def environment_changes(
  there: Sequence[Part], here: Sequence[dict[str, Any]]
) -> list[str]:
  """Returns in words how environments differ from those of a run's parts."""
  texts = []
  for part in there:
    whose = f' (its updates from {part.first + 1} on)' if len(there) > 1 else ''
    for other in here:
      for text in provenance.differences(part.session['environment'], other):
        texts.append(text + whose)
  return list(dict.fromkeys(texts))


def data_changes(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
  """Returns in words how what two runs read differs: `data` of their run.json."""
  texts = []
  old, new = there.get('files', {}), here.get('files', {})
  for path in sorted(old.keys() | new.keys()) if old and new else ():
    if path not in new:
      texts.append(f'data file {path}: not there any more')
    elif path not in old:
      texts.append(f'data file {path}: it was not there')
    elif old[path] != new[path]:
      texts.append(
        f'data file {path}: changed (sha256 {old[path][:12]} there, {new[path][:12]} '
        'here)'
      )
  for name, words in _WORDS.items():
    if there.get(name) and here.get(name) and there[name] != here[name]:
      texts.append(
        f'{words}: changed (sha256 {there[name][:12]} there, {here[name][:12]} here)'
      )
  return texts


def reproduce(
  workdir: str | pathlib.Path,
  into: str | pathlib.Path,
  *,
  argv: Sequence[str] = (),
  report: Callable[[str], None] = print,
) -> bool:
  """Trains a run again; returns whether it is known to be the same, bit for bit.

  It is trained from its run.json: the same config, and the data that it names.
  Differences in code, packages, devices, flags and data are reported first. The same
  call again resumes.

  Args:
    into: the new run's workdir.

  Raises:
    UserError: the run was never trained here, `into` is another run's, or as
      `runs.train`.
    loop.Interrupted: as `runs.train`.
  """
  workdir, into = pathlib.Path(workdir), pathlib.Path(into)
  about, run = read_about(workdir), read_run(workdir)
  if 'data' not in about:
    raise UserError(
      f'{workdir} was not trained: it holds weights that were imported from '
      f'{about.get("imported")}; import them again to compare'
    )
  if into.resolve() == workdir.resolve():
    raise UserError(f'into={into} is the run itself; choose another folder')
  stages, reasons = _stages(workdir, run)
  run = stages[-1]
  here = provenance.now(sharding.Layout.of(run).devices)
  now = reasons + environment_changes(parts(workdir), [here])
  for text in now:
    report(f'differs: {text}')
  read = _data_read(run, stages[0], into, about, report)
  for text in read:
    report(f'differs: {text}')
  if not now and not read:
    report('code, packages, flags, devices and data are those of the run')
  if (into / 'run.json').exists() and saved.done(into) >= run.steps:
    report(f'{into} was finished before: nothing is trained now')
  for stage in stages:
    train.train(stage, into, argv=argv, report=report)
  return _judged(workdir, into, reasons + read, report)


def _stages(
  workdir: pathlib.Path, run: config.Run
) -> tuple[list[config.Run], list[str]]:
  """Returns the configs to train one after another, and what can't be repeated.

  A run that was made longer after it had finished had another schedule before, which is
  trained first.
  """
  done = parts(workdir)
  reasons = [
    f'config {name}: {old!r} when it was trained, {new!r} in run.json now'
    for name, old, new in differing_fields(done[-1].session['config'], run)
  ]
  for part in done:
    others = part.session.get('together', 1) - 1
    if others:
      reasons.append(
        f'updates from {part.first + 1} on were trained in one program with {others} '
        'other runs: alone they may round otherwise'
      )
  stages = [run]
  for part in reversed(done[:-1]):
    own = config.from_flat(part.session['config'])
    differing = [
      (name, old, new)
      for name, old, new in differing_fields(config.flat(own), stages[0])
      if name in _NUMBERS
    ]
    if differing and own.steps == part.last:
      stages.insert(0, own)
    elif differing:
      reasons.append(
        f'updates {part.first + 1} to {part.last} were made with '
        + ', '.join(f'{name}={old!r}' for name, old, _ in differing)
        + ', and then the run was stopped: they are made with '
        + ', '.join(f'{name}={new!r}' for name, _, new in differing)
      )
  for stage in stages:
    stage.tokens, stage.epochs = 0, 0.0  # its steps are known
    # As many as there were: 0 means all, which may be more here.
    number = len(done[-1].session['environment'].get('devices', ()))
    number = number if stage.layout else min(number, len(jax.devices()))
    stage.devices = stage.devices or number
  return stages, reasons


def differing_fields(
  fields: dict[str, Any], run: config.Run
) -> list[tuple[str, Any, Any]]:
  """Returns (name, there, here) of the fields in which a run differs from a config."""
  old, new = config.flat(config.from_flat(fields)), config.flat(run)
  return [(name, old[name], new[name]) for name in new if old[name] != new[name]]


def _data_read(
  run: config.Run,
  first: config.Run,
  into: pathlib.Path,
  about: dict[str, Any],
  report: Callable[[str], None],
) -> list[str]:
  """Returns how the data to be read differs from the data that the run read."""
  if run.is_finetuning:
    job = finetune_job.read_job(run, report)
    return data_changes(about['data'], finetune_job.digests(job, about['data']))
  into.mkdir(parents=True, exist_ok=True)
  check_same_run(first, into)
  here = prepared(run, into, report).digests()
  if run.init_from and 'source' in about['data']:
    here['source'] = checksums.digest(load(run.init_from).params)
  return data_changes(about['data'], here)


def _judged(
  workdir: pathlib.Path,
  into: pathlib.Path,
  reasons: list[str],
  report: Callable[[str], None],
) -> bool:
  """Reports how two runs compare; returns whether they are the same."""
  folders = [pathlib.Path('.')]
  if read_run(workdir).is_finetuning:
    folders = [p.parent.relative_to(workdir) for p in workdir.glob('*/metrics.jsonl')]
    folders = [pathlib.Path('.'), *sorted(folders)]
  equal, differing = [], []
  for folder in folders:
    whose = '' if folder == pathlib.Path('.') else f'{folder}: '
    same, apart = held_against(workdir / folder, into / folder)
    equal += [whose + text for text in same]
    differing += [whose + text for text in apart]
  if not differing and not equal:
    raise UserError(
      f'{workdir} has logged nothing that could be compared; train it further'
    )
  both = [[_by_step(read_checksums(w / f)) for w in (workdir, into)] for f in folders]
  if not differing and not any(ours.keys() & theirs.keys() for ours, theirs in both):
    report(
      'the same as far as is known, ' + '; '.join(equal) + '; its tensors are not '
      'compared, as the two have no fingerprints of the same update'
    )
    return False
  if not differing:
    report('bit for bit the same: ' + '; '.join(equal))
    return True
  here = [part.session['environment'] for part in parts(into)]
  reasons = reasons + environment_changes(parts(workdir), here)
  report('\n'.join(['not the same', *(f'  {text}' for text in differing)]))
  report(
    '\n'.join(['what differs in what they were made of', *(f'  {t}' for t in reasons)])
  )
  if not reasons:
    report(
      '  nothing that is known: these devices or this program may not compute the same '
      'twice'
    )
  return False


def held_against(a: pathlib.Path, b: pathlib.Path) -> tuple[list[str], list[str]]:
  """Returns what is the same and what differs in two runs of a config, in words.

  Compared are fingerprints, and metrics but those of time, of updates that both logged.
  """
  same, apart = [], []
  ours, theirs = _by_step(read_metrics(a)), _by_step(read_metrics(b))
  common = sorted(ours.keys() & theirs.keys())
  first = next((step for step in common if _unlike(ours[step], theirs[step])), None)
  if first is not None:
    old, new = ours[first], theirs[first]
    names = sorted(_unlike(old, new), key=lambda name: name != 'loss')
    values = (f'{n} {old[n]!r} there, {new[n]!r} here' for n in names)
    apart.append(
      f'the first line of metrics that differs is of update {first}: '
      + ', '.join(values)
    )
  elif common:
    losses = sum('loss' in ours[step] for step in common)
    what = f'{losses} logged losses and all other metrics' if losses else 'all metrics'
    same.append(f'{what} up to update {common[-1]}')
  ours, theirs = _by_step(read_checksums(a)), _by_step(read_checksums(b))
  common = sorted(ours.keys() & theirs.keys())
  first = next((step for step in common if _unlike(ours[step], theirs[step])), None)
  if first is not None:
    apart += _tensors_apart(a, b, first, ours[first], theirs[first])
  elif common:
    number = len(ours[common[-1]]['params'])
    same.append(
      f'{number} tensors and the state of the optimizer at {len(common)} '
      f'checkpoint{"s" * (len(common) > 1)}, the last of update {common[-1]}'
    )
  return same, apart


def _by_step(lines: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
  """Returns lines by their step, those of one step as one, without the clock."""
  by_step: dict[int, dict[str, Any]] = {}
  for line in lines:
    own = {name: value for name, value in line.items() if name not in CLOCK_FIELDS}
    by_step.setdefault(line['step'], {}).update(own)
  return by_step


def _unlike(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  """Returns the fields that both have and that differ."""
  return [name for name in old if name in new and old[name] != new[name]]


def _tensors_apart(
  a: pathlib.Path,
  b: pathlib.Path,
  step: int,
  ours: dict[str, Any],
  theirs: dict[str, Any],
) -> list[str]:
  """Returns what differs at the first checkpoint with another fingerprint, in words."""
  names = _unlike(ours['params'], theirs['params'])
  if not names:
    what = [
      words
      for field, words in (
        ('rest', "the optimizer's state"),
        ('losses', 'losses logged before'),
      )
      if ours[field] != theirs[field]
    ]
    return [
      f'the first checkpoint that differs is that of update {step}: its tensors are '
      f'the same, not {" and ".join(what)}'
    ]
  apart = [
    f'the first checkpoint that differs is that of update {step}: {len(names)} of '
    f'{len(ours["params"])} tensors, the first is {names[0]}'
  ]
  kept = [set(manifest.whole(each / 'checkpoints')) for each in (a, b)]
  later = [number for number in sorted(kept[0] & kept[1]) if number >= step]
  # A fine-tuning's groups have no run.json, and its checkpoints are no plain models.
  if not (a / 'run.json').exists() or read_run(a).is_finetuning or not later:
    return apart
  (old, new) = (checksums.named(load(each, later[0]).params) for each in (a, b))
  distance = {
    name: float(np.max(np.abs(np.asarray(old[name]) - np.asarray(new[name]))))
    for name in old
  }
  farthest = max(distance, key=distance.get)
  for name in dict.fromkeys([names[0], farthest]):
    largest = float(np.max(np.abs(np.asarray(old[name]))))
    apart.append(
      f'at update {later[0]} the values of {name}, up to {largest:.3g}, are up to '
      f'{distance[name]:.3g} apart' + ', the most of all' * (name == farthest)
    )
  return apart
