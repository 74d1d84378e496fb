"""A sweep as runs: read from its file, checked, named, and written as commands."""

import dataclasses
import hashlib
import json
import pathlib
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.config.experiment import run_file
from gpt_jax.data.prepare import recipe
from gpt_jax.files import field, of_kind, read_json, shown, write_json
from gpt_jax.paths import expand_paths
from gpt_jax.sweep.algebra import Points
from gpt_jax.sweep.search_space import Search

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / 'launch.py'
_LONGEST = 120  # characters of a run's name


@dataclasses.dataclass(frozen=True)
class Entry:
  """One run of a sweep.

  Attributes:
    overrides: what the sweep sets in the config.
    arguments: of launch.py, to train it.
  """

  name: str
  overrides: dict[str, Any]
  run: config.Run
  workdir: pathlib.Path
  arguments: list[str]

  @property
  def command(self) -> str:
    """Returns the command line, to be pasted into a shell."""
    return shlex.join(['python', 'launch.py', *self.arguments])


@dataclasses.dataclass(frozen=True)
class Sweep:
  """All runs of a sweep.

  Attributes:
    base: the config before the sweep's overrides.
    given: what the command line changed in the config's file.
  """

  folder: pathlib.Path
  config_file: str
  sweep_file: str
  base: config.Run
  entries: list[Entry]
  search: Search | None = None
  argv: Sequence[str] = ()
  given: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def arguments(self) -> list[str]:
    """Returns the arguments of launch.py that run the sweep."""
    return [
      'sweep',
      f'--config={self.config_file}',
      *_flags(self.given),
      f'--sweep={self.sweep_file}',
      f'--workdir={self.folder}',
    ]

  @property
  def varied(self) -> list[str]:
    """Returns the fields that not all runs have alike, in the order of the file."""
    names = dict.fromkeys(name for each in self.entries for name in each.overrides)
    flats = [config.flat(each.run) for each in self.entries]
    return [name for name in names if len({flat[name] for flat in flats}) > 1]


def read(path: str | pathlib.Path) -> Points | Search:
  """Returns the RUNS, or the SEARCH, of a sweep file.

  Raises:
    UserError: there is no such file, it can't be run, or has neither, or both.
  """
  if not pathlib.Path(path).is_file():
    raise UserError(f'--sweep={path}: there is no such file')
  try:
    names = vars(run_file(path, 'sweep_file'))
  except UserError as error:
    named = str(error).startswith(str(path))
    raise UserError(str(error) if named else f'{path}: {error}') from error
  found = [names[name] for name in ('RUNS', 'SEARCH') if name in names]
  if len(found) != 1 or not isinstance(found[0], Points | Search):
    raise UserError(
      f'{path} must have RUNS = grid(...), zipped(...), point(...) and their * and +, '
      'or SEARCH = search(...), and not both'
    )
  return found[0]


def planned(
  points: Sequence[Mapping[str, Any]] | Points,
  *,
  base: config.Run,
  given: Mapping[str, Any],
  config_file: str,
  sweep_file: str,
  folder: str | pathlib.Path,
  search: Search | None = None,
  argv: Sequence[str] = (),
) -> Sweep:
  """Returns the sweep of some points.

  Args:
    points: overrides of each run.
    base: the config that they override.
    given: what the command line changed in the config's file; part of `base`.

  Raises:
    UserError: a point names an unknown field, or one that the command line sets, or
      breaks a rule of configs, or two runs are equal.
  """
  folder = pathlib.Path(folder)
  points = [_typed(each) for each in points]
  _check_names(points, given, sweep_file)
  runs = [config.from_flat(config.flat(base) | each) for each in points]
  for each in runs:
    expand_paths(each)
  names = _names(points, runs)
  wrong, same = [], {}
  for name, run in zip(names, runs, strict=True):
    try:
      config.check_early(run)
    except UserError as error:
      wrong += [f'{name}: {line}' for line in str(error).splitlines()]
      continue
    other = same.setdefault(tuple(config.flat(run).items()), name)
    if other != name:
      wrong.append(f'{other} and {name} are equal runs; leave one out')
  if wrong:
    raise UserError(f'{sweep_file}:\n' + '\n'.join(wrong))
  entries = []
  places = _token_folders(runs, folder)
  for name, point, run, tokens in zip(names, points, runs, places, strict=True):
    run.data.tokens = tokens
    fields = {**given, **point, **({'data.tokens': tokens} if tokens else {})}
    arguments = [
      'train',
      f'--config={config_file}',
      *_flags(fields),
      f'--workdir={folder / name}',
    ]
    entries.append(Entry(name, point, run, folder / name, arguments))
  return Sweep(folder, config_file, sweep_file, base, entries, search, argv, given)


def _flags(fields: Mapping[str, Any]) -> list[str]:
  return [f'--config.{name}={_text(value)}' for name, value in fields.items()]


def _typed(point: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a point with whole numbers as floats, and lists as tuples, where due."""
  known = config.flat(config.Run())
  made = dict(point)
  for name, value in point.items():
    if isinstance(known.get(name), float) and type(value) is int:
      made[name] = float(value)
    if isinstance(known.get(name), tuple) and isinstance(value, list):
      made[name] = tuple(value)
  return made


def _check_names(
  points: Sequence[Mapping[str, Any]], given: Mapping[str, Any], sweep_file: str
) -> None:
  known = config.flat(config.Run())
  names = dict.fromkeys(str(name) for each in points for name in each)
  wrong = [
    f'{sweep_file}: there is no field {name!r} in a config.'
    f'{config.nearest(name, known)}'
    for name in names
    if name not in known
  ]
  wrong += [
    f'--config.{name}={given[name]!r} is set by {sweep_file} too; leave it out in one'
    for name in names
    if name in given
  ]
  if 'data.tokens' in names:
    wrong.append(f'{sweep_file}: data.tokens is set by the sweep itself; leave it out')
  if wrong:
    raise UserError('\n'.join(wrong))


def _names(points: Sequence[dict], runs: Sequence[config.Run]) -> list[str]:
  """Returns a name for each run, of what it does not share with all others."""
  flats = [config.flat(run) for run in runs]
  fields = [
    name
    for name in dict.fromkeys(name for each in points for name in each)
    if len({repr(flat[name]) for flat in flats}) > 1
  ]
  lasts = Counter(name.rsplit('.', 1)[-1] for name in fields)
  short = {name: name.rsplit('.', 1)[-1] for name in fields}
  short = {name: last if lasts[last] == 1 else name for name, last in short.items()}
  made = []
  for flat in flats:
    parts = (f'{short[name]}={_text(flat[name])}' for name in fields)
    made.append(re.sub(r'[^\w.=+-]+', '-', '_'.join(parts)) or 'run')
  count = Counter(made)
  return [
    f'{i}_{name[: _LONGEST - 5]}' if count[name] > 1 or len(name) > _LONGEST else name
    for i, name in enumerate(made)
  ]


def _text(value: Any) -> str:
  """Returns a value as the command line takes it."""
  return value if isinstance(value, str) else repr(value)


def _token_folders(runs: Sequence[config.Run], folder: pathlib.Path) -> list[str]:
  """Returns data.tokens of each run: one folder for all that share their data.

  Of a fine-tuning it is '': it reads no tokens.
  """
  digests = []
  for run in runs:
    if run.is_finetuning:
      digests.append('')
      continue
    there = pathlib.Path(run.init_from) / 'tokenizer'
    given = there if run.init_from and there.is_dir() else None
    made = json.dumps(recipe(run.data, given), sort_keys=True)
    made += '' if given else run.init_from  # whose tokenizer is not known yet
    digests.append(hashlib.sha256(made.encode()).hexdigest()[:8])
  several = len(set(digests) - {''}) > 1
  return [
    run.data.tokens or (digest and str(folder / 'tokens' / (digest if several else '')))
    for run, digest in zip(runs, digests, strict=True)
  ]


def write(sweep: Sweep, git: Mapping[str, str]) -> None:
  """Writes sweep.json, which says what the sweep is, and of which state of the code."""
  about = {**_about(sweep), 'argv': list(sweep.argv), 'git': dict(git)}
  write_json(sweep.folder / 'sweep.json', about)


def _about(sweep: Sweep) -> dict:
  search = sweep.search and dataclasses.asdict(sweep.search)
  return {
    'config': sweep.config_file,
    'sweep': sweep.sweep_file,
    'base': config.flat(sweep.base),
    'search': search,
    'runs': [
      {'name': e.name, 'overrides': e.overrides, 'tokens': e.run.data.tokens}
      for e in sweep.entries
    ],
  }


def check_same(sweep: Sweep) -> None:
  """Raises a UserError where the folder holds another sweep, or a run."""
  if (sweep.folder / 'run.json').exists():
    raise UserError(
      f'workdir={sweep.folder} holds a single run; choose another workdir'
    )
  if not (sweep.folder / 'sweep.json').exists():
    return
  old, new = _load(sweep.folder), json.loads(json.dumps(_about(sweep)))
  differing = [
    f'{name}: {old["base"].get(name)!r} there, {value!r} now'
    for name, value in new['base'].items()
    if old['base'].get(name) != value and name not in config.FREE_ON_RESUME
  ]
  if old.get('search') != new['search']:
    differing.append(f'search: {old.get("search")} there, {new["search"]} now')
  there, now = (
    {each['name']: each['overrides'] for each in about['runs']} for about in (old, new)
  )
  for name in {**there, **now}:
    if there.get(name) != now.get(name):
      what = [f'{of.get(name, "no such run")}' for of in (there, now)]
      differing.append(f'run {name}: {what[0]} there, {what[1]} now')
  if not differing and list(there) != list(now):
    differing.append('the runs are in another order, so --index would mean others')
  if differing:
    more = [f'and {len(differing) - 10} more'] if len(differing) > 10 else []
    raise UserError(
      f'workdir={sweep.folder} holds another sweep; choose another workdir, or run it '
      'with the same config and sweep file\n' + '\n'.join(differing[:10] + more)
    )


def _load(folder: pathlib.Path) -> dict:
  path = folder / 'sweep.json'
  if not path.exists():
    raise UserError(f'{folder} is no sweep: it has no sweep.json')
  about = read_json(path, remedy=_AGAIN)
  for name, kind in _KINDS.items():
    field(about, name, kind, path, _AGAIN)
  for number, each in enumerate(about['runs']):
    where = f'{path}: run {number}'
    of_kind(each, dict, where, _AGAIN)
    for name, kind in (('name', str), ('overrides', dict), ('tokens', str)):
      field(each, name, kind, where, _AGAIN)
    if pathlib.PurePath(each['name']).name != each['name'] or '\0' in each['name']:
      raise UserError(
        f'{where} is damaged: {shown(each["name"])} is no name of a folder; {_AGAIN}'
      )
  if not about['runs']:
    raise UserError(f'{path} is damaged: it has no runs; {_AGAIN}')
  return about


_AGAIN = 'move it away, and the same command writes it again'
_KINDS = {'config': str, 'sweep': str, 'base': dict, 'runs': list, 'argv': list}


def load(folder: str | pathlib.Path) -> Sweep:
  """Returns the sweep that a folder holds, without the commands of its runs.

  Raises:
    UserError: it holds none, or sweep.json is damaged.
  """
  folder = pathlib.Path(folder)
  about = _load(folder)
  path, entries = folder / 'sweep.json', []
  base = config.recorded(about['base'], f'{path}: base', _AGAIN)
  for each in about['runs']:
    fields = {**about['base'], **each['overrides'], 'data.tokens': each['tokens']}
    name, where = each['name'], f'{path}: run {shown(each["name"])}'
    run = config.recorded(fields, where, _AGAIN)
    entries.append(Entry(name, each['overrides'], run, folder / name, []))
  argv = tuple(map(str, about['argv']))
  return Sweep(folder, about['config'], about['sweep'], base, entries, argv=argv)
