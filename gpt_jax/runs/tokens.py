"""The tokens of a run: prepared and opened, those of a mixture source by source.

A mixture's sources are in FOLDER/sources/NAME/SNAPSHOT, each like the folder of a run
with one source. A snapshot is a hash of how it was made and of the names and sizes of
its files, so that a source that has grown has another one beside it. run.json says
which snapshots each stage reads.
"""

import dataclasses
import functools
import hashlib
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError, mixture
from gpt_jax.data import fidelity, prepare, token_files
from gpt_jax.files import MEND, field, of_kind
from gpt_jax.inference import hugging_face
from gpt_jax.runs import shape
from gpt_jax.runs.load import is_weights
from gpt_jax.runs.workdir import read_about
from gpt_jax.tasks import dialogue_tokens
from gpt_jax.training import saved
from gpt_jax.weights import facts

_BLOCK = 1 << 24  # tokens that are compared at a time


class Source(NamedTuple):
  """A snapshot of a source.

  Attributes:
    name: in the mixture; '' of a run's only source.
    key: of the snapshot; '' likewise.
  """

  name: str
  key: str
  train: token_files.TokenFile
  valid: token_files.TokenFile

  def digests(self) -> dict[str, str]:
    """Returns checksums of its tokens and texts."""
    return {
      'train': self.train.digest,
      'valid': self.valid.digest,
      'text': self.train.text,
      'valid_text': self.valid.text,
    }


class Stage(NamedTuple):
  """A stage of a mixture.

  Attributes:
    update: updates done before its first.
    rows: of each source in `mixture.CYCLE`, by name.
    sources: of each name, in that order, the number of its snapshot in the run.
  """

  update: int
  rows: dict[str, int]
  sources: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Prepared:
  """The tokens of a run.

  Attributes:
    sources: snapshots, one unless the run has a mixture.
    stages: of the mixture; ().
  """

  tokenizer: tokenizers.Tokenizer
  sources: tuple[Source, ...]
  stages: tuple[Stage, ...] = ()

  @property
  def train(self) -> token_files.TokenFile:
    """The training tokens of the only source; a UserError where there are several."""
    return self._only.train

  @property
  def valid(self) -> token_files.TokenFile:
    """The held-out tokens of the only source; a UserError where there are several."""
    return self._only.valid

  @property
  def _only(self) -> Source:
    if self.stages:
      names = ', '.join(self.stages[0].rows)
      raise UserError(
        f'this is done with one text, and the run has a mixture of {names}; name a run '
        'with data.source'
      )
    return self.sources[0]

  @property
  def newest(self) -> list[Source]:
    """The snapshot of each source that the last stage reads."""
    last = self.stages[-1].sources if self.stages else (0,)
    return [self.sources[i] for i in last]

  @property
  def held_out(self) -> list[Source]:
    """The snapshot of each source whose held-out text is evaluated: the first."""
    first = self.stages[0].sources if self.stages else (0,)
    return [self.sources[i] for i in first]

  def digests(self) -> dict[str, Any]:
    """Returns checksums of the tokens, the tokenizer, the text and its files.

    With them comes what the tokenizer made of the held-out text. Of a mixture a
    checksum is that of its sources', and `mixture` has those of each stage.
    """
    each = [source.digests() for source in self.sources]
    one = each[0]
    if self.stages:
      one = {name: _together(own[name] for own in each) for name in one}
    files = [source.train.files | source.valid.files for source in self.sources]
    about = {
      **one,
      'tokenizer': self.sources[0].train.tokenizer,
      'files': {path: sha256 for own in files for path, sha256 in own.items()},
      'fidelity': self._most_changed(),
    }
    if self.stages:
      about['mixture'] = [self._recorded(stage) for stage in self.stages]
    return about

  def _recorded(self, stage: Stage) -> dict[str, Any]:
    """Returns what run.json says of a stage."""
    own = zip(stage.rows, stage.sources, strict=True)
    sources = {
      name: {'snapshot': self.sources[i].key} | self.sources[i].digests()
      for name, i in own
    }
    return {'update': stage.update, 'rows': stage.rows, 'sources': sources}

  def _most_changed(self) -> dict[str, Any]:
    """Returns the record of the held-out text that the tokenizer changes most."""
    share = lambda record: record.get('changed', 0) / max(record.get('pieces', 0), 1)  # noqa: E731
    return max((source.valid.fidelity for source in self.sources), key=share)

  @property
  def lost(self) -> str:
    """How the tokenizer changes the held-out text, '' if it does not."""
    return fidelity.lost(self._most_changed(), self.tokenizer.kind)

  @property
  def text_sha256(self) -> str:
    """The sha256 of the held-out text; of a mixture, of its sources'."""
    texts = [source.valid.text for source in self.held_out]
    return _together(texts) if self.stages else texts[0]


def _together(digests: Iterator[str]) -> str:
  """Returns one checksum of several."""
  return hashlib.sha256(' '.join(digests).encode()).hexdigest()


def prepared(
  run: config.Run,
  workdir: str | pathlib.Path,
  report: Callable[[str], None] = print,
  *,
  trains: bool = False,
) -> Prepared:
  """Returns the tokenizer and tokens of a run, prepared first if they are missing.

  With `init_from` the tokenizer is copied from there, and what a Hugging Face folder
  says besides. With data.tokens the tokenizer is copied into the workdir too, which so
  stays complete.

  Args:
    trains: whether updates follow: a mixture may then get new stages, for which sources
      are read as they are now; else it is opened as it was trained.

  Raises:
    UserError: as `prepare.prepare`; or a mixture is not the one that was begun.
  """
  workdir = pathlib.Path(workdir)
  if not (run.data.source or run.data.mixture):
    raise UserError(
      f"data.source='' names no text for {workdir}; set --config.data.source. If these "
      'are imported weights, train and evaluate in a new workdir that starts from '
      f'them: --config.init_from={workdir}'
    )
  folder, own = pathlib.Path(run.data.tokens or workdir), workdir / 'tokenizer'
  original = None
  if run.init_from:
    if not own.exists():
      _copy_descriptions(run, workdir)
    original = own if own.exists() else pathlib.Path(run.init_from) / 'tokenizer'
  if run.data.mixture:
    if not own.exists():
      each = list(mixture.sources(run.data).values())
      made = original or prepare.prepare_tokenizer(each, folder / 'tokenizers', report)
      _copy(made, own)
    return _mixed(run, workdir, folder / 'sources', own, report, trains)
  fill = dialogue_tokens.fill if run.data.dialogues else None
  prepare.prepare(run.data, folder, report=report, tokenizer=original, fill=fill)
  if not own.exists():
    _copy(folder / 'tokenizer', own)
  return Prepared(tokenizers.load(own), (_opened(folder, own),))


def _copy(folder: pathlib.Path, own: pathlib.Path) -> None:
  """Copies a tokenizer into the workdir, whole or not at all."""
  staged = own.with_name(f'.tokenizer.{os.getpid()}.tmp')
  shutil.copytree(folder, staged, dirs_exist_ok=True)
  staged.rename(own)


def _opened(
  folder: pathlib.Path, tokenizer: pathlib.Path, name: str = '', key: str = ''
) -> Source:
  """Returns the tokens of a folder, which the tokenizer must have made."""
  files = [
    token_files.open_tokens(folder / 'tokens' / part) for part in ('train', 'valid')
  ]
  digest = tokenizers.digest(tokenizer)
  if any(file.tokenizer != digest for file in files):
    raise UserError(
      f'{tokenizer} is not the tokenizer that made {folder / "tokens"}; remove the one '
      'that does not belong there'
    )
  return Source(name, key, *files)


def _copy_descriptions(run: config.Run, workdir: pathlib.Path) -> None:
  """Takes from `init_from` what its folder says, and its tokenizer if it has no run.

  Raises:
    UserError: `init_from` is neither a workdir nor a folder of weights, or has no
      tokenizer.
  """
  own = workdir / 'tokenizer'
  shape.check_source(run.init_from)
  if not is_weights(run.init_from):
    facts.keep(facts.kept(run.init_from), workdir)
    return
  folder = hugging_face.find(run.init_from)
  tokenizer = hugging_face.open_tokenizer(folder, cleaning=run.data.cleaning)
  if not tokenizer:
    raise UserError(
      f'init_from={run.init_from} has no tokenizer; import it with one, and start from '
      f'the workdir: python launch.py import --source={run.init_from} --tokenizer=... '
      '--workdir=...'
    )
  facts.keep(facts.read(folder), workdir)
  staged = own.with_name(f'.tokenizer.{os.getpid()}.tmp')
  tokenizer.save(staged)
  staged.rename(own)


def _mixed(
  run: config.Run,
  workdir: pathlib.Path,
  folder: pathlib.Path,
  tokenizer: pathlib.Path,
  report: Callable[[str], None],
  trains: bool,
) -> Prepared:
  """Returns the tokens of a mixture, by its stages and those of them that began."""
  given, stages = mixture.sources(run.data), mixture.stages(run.data)
  begun = before = _recorded_stages(workdir)
  trains = trains and saved.done(workdir) < run.steps
  if trains and begun:
    done = saved.done(workdir)
    begun = [each for each in before if each['update'] < max(done, 1)]
    _check_begun(begun, stages, done)
  recorded = {
    n: own['snapshot'] for each in before for n, own in each['sources'].items()
  }

  @functools.cache
  def current(name: str) -> str:
    try:
      return prepare.snapshot(given[name], tokenizer)
    except UserError:  # its files are not there any more, and its tokens may be
      if name not in recorded:
        raise
      return recorded[name]

  keys = [{name: current(name) for name in stage.rows} for stage in stages]
  for own, stage, each in zip(keys, stages, begun, strict=False):
    used = [n for n in each['sources'] if not trains or stage.rows.get(n)]
    own |= {name: each['sources'][name]['snapshot'] for name in used}
  if trains and begun:
    _check_snapshots(len(begun) - 1, stages, keys, given, tokenizer, report)
  sources: dict[tuple[str, str], Source] = {}
  for each in keys:
    for name, key in each.items():
      if (name, key) in sources:
        continue
      own = folder / name / key
      if key == current(name):
        say = lambda line, name=name: report(f'{name}: {line}')  # noqa: E731
        prepare.prepare(given[name], own, report=say, tokenizer=tokenizer)
      elif not own.exists():
        raise UserError(
          f'{own} is not there, which holds data.mixture {name} as it was trained on; '
          'put it back, or its files as they were'
        )
      sources[name, key] = _opened(own, tokenizer, name, key)
  order = list(sources)
  result = Prepared(
    tokenizers.load(tokenizer),
    tuple(sources.values()),
    tuple(
      Stage(stage.update, stage.rows, tuple(map(order.index, each.items())))
      for stage, each in zip(stages, keys, strict=True)
    ),
  )
  _check_digests(result, begun, folder)
  _check_growth(result, folder)
  return result


def _recorded_stages(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the stages in a workdir's run.json, checked; [] where it has none."""
  path = workdir / 'run.json'
  if not path.exists():
    return []
  recorded = of_kind(read_about(workdir).get('data', {}), dict, path).get('mixture', [])
  for stage in of_kind(recorded, list, path, name='mixture'):
    of_kind(stage, dict, path, name='a stage')
    for name, kind in {'update': int, 'rows': dict, 'sources': dict}.items():
      field(stage, name, kind, path)
    for name, source in stage['sources'].items():
      of_kind(source, dict, path, name=name)
      for part in ('snapshot', 'train', 'valid'):
        field(source, part, str, path, MEND)
  return recorded


def _check_begun(
  begun: Sequence[dict[str, Any]], stages: Sequence[mixture.Stage], done: int
) -> None:
  """Raises UserError where a stage that began is another one now."""
  for i, before in enumerate(begun):
    now = stages[i] if i < len(stages) else None
    rows = {name: n for name, n in now.rows.items() if n} if now else {}
    was = {name: n for name, n in before['rows'].items() if n}
    if not now or now.update != before['update'] or rows != was:
      raise UserError(
        f'data.weights: the stage that began with update {before["update"]} has '
        f'{_in_words(was)} of {mixture.CYCLE:,} rows, and {_in_words(rows)} now; leave '
        'it as it was, and begin another stage with the new weights: '
        f'"...; {max(done, 1)}: NAME=WEIGHT, ..."'
      )
  late = [stage.update for stage in stages[len(begun) :] if stage.update < done]
  if late:
    raise UserError(
      f'data.weights: a stage begins with update {late[0]}, but {done} are done; let '
      f'it begin with update {done} or later'
    )


def _in_words(rows: dict[str, int]) -> str:
  return ', '.join(f'{name} {number:,}' for name, number in rows.items()) or 'none'


def _check_snapshots(
  last: int,
  stages: Sequence[mixture.Stage],
  keys: Sequence[dict[str, str]],
  given: dict[str, config.Data],
  tokenizer: pathlib.Path,
  report: Callable[[str], None],
) -> None:
  """Raises UserError where a source has changed within the stage that goes on.

  Args:
    last: the number of that stage.
  """
  for name, number in stages[last].rows.items():
    if not number:
      continue
    try:
      now = prepare.snapshot(given[name], tokenizer)
    except UserError:
      continue  # its files are not there any more, and its tokens are
    if now == keys[last][name]:
      continue
    later = [stage.update for stage in stages[last + 1 :] if stage.rows.get(name)]
    if not later:
      raise UserError(
        f'data.mixture: {name}={given[name].source} is not what it was when the stage '
        f'of update {stages[last].update} began (its files have other names or sizes), '
        'and a stage reads what it began with; put its files back, or begin a stage in '
        'data.weights, which reads it as it is now'
      )
    report(f'{name} has changed: read as it is now from update {later[0]} on')


def _check_digests(
  data: Prepared, begun: Sequence[dict[str, Any]], folder: pathlib.Path
) -> None:
  """Raises UserError where a snapshot has other tokens than were trained on."""
  for stage, before in zip(data.stages, begun, strict=False):
    for name, i in zip(stage.rows, stage.sources, strict=True):
      source, known = data.sources[i], before['sources'].get(name)
      if known and stage.rows[name] and source.train.digest != known['train']:
        raise UserError(
          f'{folder / name / source.key} holds other tokens than the run was trained '
          'on; put back the folder, or the source as it was'
        )


def _check_growth(data: Prepared, folder: pathlib.Path) -> None:
  """Raises UserError where text that was held out is not in a source that has grown.

  Documents are held out by their numbers: those that are new must be the last.
  """
  for first in data.held_out:
    for grown in data.sources:
      old, new = first.valid.ids, grown.valid.ids
      if grown.name != first.name or grown.key == first.key:
        continue
      cuts = range(0, len(old), _BLOCK)
      if len(new) < len(old) or any(
        np.any(old[at : at + _BLOCK] != new[at : min(at + _BLOCK, len(old))])
        for at in cuts
      ):
        raise UserError(
          f'data.mixture: the held-out text of {first.name} was other text when the '
          'run began, which it would now be trained on; a source may only get new '
          'documents behind its others (in files whose names are behind theirs, with '
          'data.split=documents); put its files back as they were, and remove '
          f'{folder / first.name / grown.key}'
        )
