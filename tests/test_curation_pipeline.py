"""launch.py curate: sources through stages, on after a kill, and its messages."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import curation_corpus
import pytest

import launch
from gpt_jax.config import UserError
from gpt_jax.data import sources
from gpt_jax.data.curation import engine, ingest, pipeline
from gpt_jax.data.curation.filters import Gopher
from gpt_jax.data.curation.ingest import Source
from gpt_jax.data.curation.pipeline import Curation
from gpt_jax.data.curation.quality import Quality

pytest.importorskip('zstandard')
ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  """A folder with raw/, curate.py, and a curation of it by one process in `one`."""
  folder = tmp_path_factory.mktemp('corpus')
  curation_corpus.write(folder)
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    patch.setattr(ingest, '_TOGETHER', 1)
    run(folder, 'one')
  return folder


CURATION = Curation(
  (Source('books', 'raw/books'), Source('crawl', 'raw/crawl')),
  (Gopher(words=(20, 500)), Quality(('books',))),
)


def run(folder, workdir: str, workers: int = 1):
  path = str(folder / workdir)
  return pipeline.run(CURATION, path, engine.local(workers, f'{path}/state'))


@pytest.fixture
def inside(raw, monkeypatch):
  """The same folder, as the current one, with each file an item of its own."""
  monkeypatch.chdir(raw)
  monkeypatch.setattr(ingest, '_TOGETHER', 1)
  return raw


def test_stages_read_what_those_before_wrote(inside):
  every = run(inside, 'one')
  assert [done.name for done in every] == ['ingest', 'gopher', 'quality']
  kept = [done.report['kept'] for done in every]
  assert [done.report['documents'] for done in every] == [240, 240, 216]
  assert kept[:2] == [240, 216] and 120 < kept[2] < 200
  assert every[1].report['dropped'] == {'symbols': 24}
  about = json.loads((inside / 'one/report.json').read_text())
  assert about['corpus'].endswith('one/02-quality')
  assert [each['kept'] for each in about['stages']] == kept
  assert about['stages'][1]['settings']['words'] == [20, 500]
  own = json.loads((inside / 'one/01-gopher/report.json').read_text())
  assert len(own['examples']['symbols']) == 3
  assert len(list((inside / 'one/02-quality').glob('*.zst'))) == 8


def test_a_curated_folder_is_a_source(inside):
  texts = list(sources.documents('one/02-quality'))
  assert len(texts) == run(inside, 'one')[-1].report['kept']


def test_four_workers_write_the_same_bytes(inside):
  run(inside, 'four', 4)
  one, four = (curation_corpus.content(inside / name) for name in ('one', 'four'))
  reports = [json.loads(each.pop('report.json')) for each in (one, four)]
  assert [each.pop('corpus')[-10:] for each in reports] == ['02-quality'] * 2
  assert one == four and reports[0] == reports[1]


KILLED = """
import sys
sys.path.insert(0, 'tests')
import test_curation_pipeline as test
import os, pathlib
folder = pathlib.Path(sys.argv[1])
os.chdir(folder)
test.ingest._TOGETHER = 1
test.run(folder, 'killed')
"""


@pytest.mark.parametrize('stage', ['00-ingest', '01-gopher', '02-quality/score'])
def test_a_kill_in_each_stage_changes_nothing(inside, stage):
  command = [sys.executable, '-c', KILLED, str(inside)]
  path = [str(ROOT), os.environ.get('PYTHONPATH', '')]
  environment = os.environ | {'PYTHONPATH': os.pathsep.join(path)}
  process = subprocess.Popen(command, cwd=ROOT, env=environment)
  marks = inside / 'killed/state' / stage
  while not (marks / '000001.json').exists():
    assert process.poll() in (None, 0)
    time.sleep(0.001)
  process.send_signal(signal.SIGKILL)
  process.wait()
  done = {p: p.stat().st_mtime_ns for p in (inside / 'killed/state').rglob('*.json')}
  if stage == '02-quality/score':
    run(inside, 'killed')
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())
    one, killed = (curation_corpus.content(inside / n) for n in ('one', 'killed'))
    assert one.keys() == killed.keys()
    assert {n for n in one if one[n] != killed[n]} == {'report.json'}  # its own path
    assert not list((inside / 'killed').rglob('.*.tmp'))


def test_other_settings_are_refused(inside):
  run(inside, 'other')
  other = Curation(CURATION.sources, (Gopher(words=(20, 400)), CURATION.stages[1]))
  with pytest.raises(UserError, match='other settings.*take another --workdir'):
    pipeline.run(other, str(inside / 'other'), engine.local(1, inside / 'other/state'))


def test_what_is_no_stage_is_refused():
  with pytest.raises(UserError, match=r"stages has 'gopher', which must be one of Rep"):
    Curation((Source('a', 'b'),), ('gopher',))
  with pytest.raises(UserError, match=r'sources=\(\) must have one Source'):
    Curation(())


def said(monkeypatch, capsys, *arguments: str) -> tuple[str, str]:
  """Returns what `launch.py curate` prints, and its error."""
  monkeypatch.setattr(sys, 'argv', ['launch.py', 'curate', *arguments])
  error = ''
  try:
    launch.main()
  except SystemExit as end:
    error = str(end.code)
  return capsys.readouterr().out, error


def test_the_command_prints_a_table(inside, monkeypatch, capsys):
  monkeypatch.setenv('COLUMNS', '120')
  out, error = said(
    monkeypatch, capsys, '--config=curate.py', '--workdir=command', '--workers=1'
  )
  assert not error
  kept = run(inside, 'one')[-1].report['kept']
  row = [line for line in out.splitlines() if 'quality' in line][0]
  assert [each.strip() for each in row.split('│')][2:5] == [
    '216',
    str(kept),
    str(216 - kept),
  ]
  assert f'corpus: {inside}/command/02-quality' in out


def test_messages_of_the_command(inside, monkeypatch, capsys):
  (inside / 'none.py').write_text('x = 1\n')
  (inside / 'wrong.py').write_text('def get_curation():\n  return 3\n')
  (inside / 'nothing.py').write_text(
    curation_corpus.CONFIG.replace("'raw/crawl'", "'raw/none'")
  )
  for arguments, words in (
    (['--config=none.py', '--workdir=w'], 'none.py has no get_curation()'),
    (['--config=wrong.py', '--workdir=w'], 'get_curation() returned int, not Curation'),
    (['--config=curate.py:x', '--workdir=w'], 'could not convert string to float'),
    (['--config=curate.py'], '--workdir is missing'),
    (['--config=nothing.py', '--workdir=w', '--workers=1'], 'no file matches raw/none'),
    (['--config=curate.py', '--workdir=w', '--engine=ray'], 'ray'),
    (['--config=curate.py', '--workdir=w', '--master=x'], '--master says nothing'),
    (
      ['--config=curate.py', '--workdir=w', '--engine=spark', '--workers=2'],
      '--workers says nothing',
    ),
    (['--config=curate.py', '--config.steps=1', '--workdir=w'], 'config.steps'),
  ):
    _, error = said(monkeypatch, capsys, *arguments)
    assert words in error, (arguments, error)


def test_a_corpus_of_nothing_is_said(inside, monkeypatch, capsys):
  (inside / 'strict.py').write_text(
    curation_corpus.CONFIG.replace('(20, 500)', '(400, 500)').replace(
      ", Quality(('books',))", ','
    )
  )
  _, error = said(
    monkeypatch, capsys, '--config=strict.py', '--workdir=strict', '--workers=1'
  )
  assert 'nothing is left after gopher' in error
  assert 'strict/01-gopher/report.json' in error
