"""Shards and the engine: the same bytes whoever works, and on after a kill."""

import collections
import functools
import json
import pathlib
import signal
import subprocess
import sys
import time
import zlib

import curation_jobs as jobs
import pytest

from gpt_jax.config import UserError
from gpt_jax.data import sources
from gpt_jax.data.curation import engine, groups, shards
from gpt_jax.data.curation.shards import Document, read_shard, write_shard

pytest.importorskip('zstandard')
ROOT = pathlib.Path(__file__).parents[1]


def corpus(folder: pathlib.Path, count: int = 6) -> list[str]:
  """Writes shards and returns their paths."""
  paths = [str(folder / f'{number:05d}{shards.SUFFIX}') for number in range(count)]
  for number, path in enumerate(paths):
    write_shard(path, jobs.documents(number, 20 + number))
  return paths


def content(folder: pathlib.Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_shard_gives_back_what_was_written(tmp_path):
  texts = ['', 'a\nb\r\n', 'é 漢 \U0001f600', '\0\x1f"\\', 'x' * 300_000]
  given = [Document(f'f#{i}', 's', text, {'n': [i]}) for i, text in enumerate(texts)]
  path = tmp_path / 'folder' / '00000.jsonl.zst'
  assert write_shard(path, iter(given)) == len(given)
  assert list(read_shard(path)) == given
  assert shards.list_shards(path.parent) == [str(path)]
  # `prepare` reads it too; it leaves empty documents out.
  texts = [document.text for document in sources.documents(str(path.parent))]
  assert texts == [document.text for document in given if document.text]


def test_a_shard_is_whole_or_not_there(tmp_path):
  def broken():
    yield from jobs.documents(0, 5)
    raise RuntimeError('in the middle')

  path = tmp_path / '00000.jsonl.zst'
  with pytest.raises(RuntimeError, match='in the middle'):
    write_shard(path, broken())
  assert list(tmp_path.iterdir()) == []
  write_shard(path, jobs.documents(0, 5))
  with pytest.raises(RuntimeError, match='in the middle'):
    write_shard(path, broken())
  assert len(list(read_shard(path))) == 5


def test_a_damaged_shard_is_named(tmp_path):
  path = tmp_path / '00000.jsonl.zst'
  write_shard(path, jobs.documents(0, 500))
  whole = path.read_bytes()
  path.write_bytes(whole[:-9])
  with pytest.raises(UserError, match=r'00000.jsonl.zst is damaged after line \d+'):
    list(read_shard(path))
  path.write_bytes(b'no zstandard at all')
  with pytest.raises(UserError, match='is damaged after line 0'):
    list(read_shard(path))
  with pytest.raises(UserError, match='has no shard'):
    shards.list_shards(tmp_path / 'nothing')


@pytest.mark.parametrize('workers', [1, 3])
def test_map_gives_results_in_order_and_the_same_bytes(tmp_path, workers):
  paths = corpus(tmp_path / 'in')
  out = tmp_path / 'out'
  run = engine.local(workers, tmp_path / 'state')
  work = functools.partial(jobs.upper, str(out))
  assert run.map('upper', work, paths) == [{'kept': 20 + n} for n in range(6)]
  for number, path in enumerate(paths):
    expected = [
      d._replace(text=d.text.upper()) for d in jobs.documents(number, 20 + number)
    ]
    assert list(read_shard(out / pathlib.Path(path).name)) == expected
  again = tmp_path / 'again'
  engine.local(1, tmp_path / 'state2').map(
    'upper', functools.partial(jobs.upper, str(again)), paths
  )
  assert content(out) == content(again)


@pytest.mark.parametrize('workers', [1, 3])
def test_what_has_a_mark_is_not_done_again(tmp_path, workers):
  paths = corpus(tmp_path / 'in')
  work = functools.partial(jobs.upper, str(tmp_path / 'out'))
  run = engine.local(workers, tmp_path / 'state')
  first = run.map('upper', work, paths)
  (tmp_path / 'state/upper/000002.json').unlink()
  assert run.map('upper', work, paths) == first
  log = (tmp_path / 'runs').read_text().split()
  assert len(log) == 7 and log.count('00002.jsonl.zst') == 2


def test_a_mark_of_other_settings_is_refused(tmp_path):
  run = engine.local(1, tmp_path)
  assert run.map('square', jobs.square, [2, 3]) == [4, 9]
  assert run.map('square', jobs.square, [2, 3, 4]) == [4, 9, 16]
  with pytest.raises(UserError, match='000001.json is of other settings'):
    run.map('square', jobs.square, [2, 5])
  with pytest.raises(UserError, match='000000.json is of other settings'):
    run.map('square', jobs.fails, [2, 3])
  (tmp_path / 'square/000000.json').write_text('{"digest": ')
  with pytest.raises(UserError, match='000000.json is damaged'):
    run.map('square', jobs.square, [2, 3])
  with pytest.raises(TypeError, match='says nothing of what it is'):
    run.map('object', jobs.square, [object()])


@pytest.mark.parametrize('workers', [1, 2])
def test_what_goes_wrong_in_a_process_is_raised_here(tmp_path, workers):
  run = engine.local(workers, tmp_path)
  with pytest.raises(UserError, match='number=3 must not be given'):
    run.map('fails', jobs.fails, range(9))
  with pytest.raises(RuntimeError, match=r'(?s)in breaks.*ZeroDivisionError'):
    run.map('breaks', jobs.breaks, range(9))


def test_a_process_that_dies_is_a_message(tmp_path):
  run = engine.local(2, tmp_path)
  with pytest.raises(UserError, match=r'a process died \(exit -9\)'):
    run.map('dies', jobs.dies, range(9))


def by_hand(paths: list[str], parts: int) -> list[list[bytes]]:
  """Returns the records of each part, by a dictionary in memory."""
  ids = collections.defaultdict(list)
  for path in paths:
    for key, value in jobs.words(path):
      ids[key].append(value)
  return [
    [
      key + b' ' + b','.join(sorted(ids[key]))
      for key in sorted(ids)
      if zlib.crc32(key) % parts == part
    ]
    for part in range(parts)
  ]


# The limits are patched in this process alone.
@pytest.mark.parametrize('workers, fits', [(1, None), (3, None), (1, 5_000)])
def test_group_brings_all_values_of_a_key_together(
  tmp_path, workers, fits, monkeypatch
):
  paths = corpus(tmp_path / 'in', 9)
  if fits:
    monkeypatch.setattr(groups, '_FITS', fits)
    monkeypatch.setattr(groups, '_MERGED', 3)
  run = engine.local(workers, tmp_path / 'state')
  files = run.group('words', jobs.words, jobs.joined, paths, 4)
  records = [list(groups.read_records(file)) for file in files]
  assert records == by_hand(paths, 4) and all(records)
  other = engine.local(1, tmp_path / 'other')
  others = other.group('words', jobs.words, jobs.joined, paths, 4)
  assert [pathlib.Path(p).read_bytes() for p in files] == [
    pathlib.Path(p).read_bytes() for p in others
  ]
  assert run.group('words', jobs.words, jobs.joined, paths, 4) == files
  assert not (tmp_path / 'state/words/runs').exists()


def test_group_where_a_key_is_not_read_to_its_end(tmp_path):
  paths = corpus(tmp_path / 'in')
  run = engine.local(1, tmp_path / 'state')
  files = run.group('first', jobs.words, jobs.first, paths, 1)
  assert list(groups.read_records(files[0])) == [
    record.split(b',')[0] for record in by_hand(paths, 1)[0]
  ]


def test_group_in_memory_that_does_not_grow(tmp_path, monkeypatch):
  largest, merged = 0, []
  write, merge = groups._write_run, groups.heapq.merge

  def noted(path, entries, parts):
    nonlocal largest
    largest = max(largest, len(entries))
    write(path, entries, parts)

  monkeypatch.setattr(groups, '_FITS', 10_000)
  monkeypatch.setattr(groups, '_MERGED', 3)
  monkeypatch.setattr(groups, '_write_run', noted)
  monkeypatch.setattr(
    groups.heapq, 'merge', lambda *runs: (merged.append(len(runs)), merge(*runs))[1]
  )
  run = engine.local(1, tmp_path / 'state')
  run.group('words', jobs.words, jobs.joined, corpus(tmp_path / 'in', 9), 2)
  assert largest <= 10_000 / groups._OBJECTS + 1
  assert max(merged) <= 3 and len(merged) > 4


KILLED = """
import functools, sys
sys.path.insert(0, 'tests')
import curation_jobs as jobs
from gpt_jax.data.curation import engine, shards
folder, workers = sys.argv[1], int(sys.argv[2])
run = engine.local(workers, folder + '/state')
work = functools.partial(jobs.slow_upper, folder + '/out')
run.map('upper', work, shards.list_shards(folder + '/in'))
"""


@pytest.mark.parametrize('workers', [1, 2])
def test_a_kill_at_any_moment_loses_nothing(tmp_path, workers):
  paths = corpus(tmp_path / 'in', 12)
  command = [sys.executable, '-c', KILLED, str(tmp_path), str(workers)]
  process = subprocess.Popen(command, cwd=ROOT)
  marks = tmp_path / 'state/upper'
  while len(shards.names_in(marks)) < 4:
    assert process.poll() is None
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.wait()
  time.sleep(0.3)  # a process that was left ends with its shard, or before
  done = len(shards.names_in(marks))
  assert 4 <= done < 12
  before = len((tmp_path / 'runs').read_text().split())
  subprocess.run(command, check=True, cwd=ROOT)
  log = (tmp_path / 'runs').read_text().split()
  assert len(log) - before == 12 - done
  whole = tmp_path / 'whole'
  engine.local(1, tmp_path / 'state2').map(
    'upper', functools.partial(jobs.upper, str(whole)), paths
  )
  assert content(tmp_path / 'out') == content(whole)
  assert json.loads((marks / '000000.json').read_text())['result'] == {'kept': 20}


def test_processes_that_rest_are_gone_and_come_back(tmp_path):
  run = engine.local(2, tmp_path)
  first = run.map('one', jobs.process, range(2))
  assert set(first) <= {p.name for p in pathlib.Path('/proc').glob('[0-9]*')}
  run.rest()
  assert not {*first} & {p.name for p in pathlib.Path('/proc').glob('[0-9]*')}
  again = run.map('two', jobs.process, range(2))
  assert not {*first} & {*again}
  engine.local(1, tmp_path).rest()  # it has none
