"""Dumps of comments to dialogues: a made-up one, each filter hit, by any workers."""

import itertools
import json
import pathlib

import pytest

import launch
from gpt_jax.config import UserError
from gpt_jax.data.curation import engine
from gpt_jax.tasks import dialogues, reddit_dumps
from gpt_jax.tasks.reddit import Settings

zstandard = pytest.importorskip('zstandard')

# What a reply must be for each reason; the paper's filters.
REPLIES = {
  'kept': 'i am fine thank you',
  'address': 'look at https://a.b it is',
  'repeated word': 'that is that and that',
  'no frequent word': 'hahaha lol',
  'brackets': 'it is [here]',
  'blocked phrase': 'it is the Bad word, yes',
  'of a test': 'So it is, you know',
  'deleted': '[deleted]',
  'quotes': '> you said so',
  'one word': 'yes',
}
SETTINGS = Settings(cleaning='paper')


def rows():
  numbers = itertools.count()
  for i, reply in enumerate(REPLIES.values()):
    for j in range(i + 1):
      link, first = f't3_{i}{j}', f'a{next(numbers)}'
      about = {'link_id': link, 'score': 2}
      yield {**about, 'id': first, 'parent_id': link, 'body': f'how is it at {i}'}
      answer = {'id': f'b{next(numbers)}', 'parent_id': f't1_{first}'}
      yield {**about, **answer, 'body': reply}
  yield {'id': 'x'}


@pytest.fixture
def place(tmp_path):
  """A dump in two files, whose submissions are in both, and phrases and a test."""
  every = [json.dumps(row).encode() + b'\n' for row in rows()]
  (tmp_path / 'a.jsonl').write_bytes(b''.join(every[::2] + every[:1]))
  # As the public dumps: with a window beyond what is unpacked unasked.
  wide = zstandard.ZstdCompressionParameters(window_log=28)
  packer = zstandard.ZstdCompressor(compression_params=wide).compressobj()
  packed = packer.compress(b''.join(every[1::2])) + packer.flush()
  (tmp_path / 'b.zst').write_bytes(packed)
  (tmp_path / 'phrases').write_text('BAD WORD\n\n')
  (tmp_path / 'test.tsv').write_text('so EOS How is it, at 6?\tso it is you know\n')
  return tmp_path


def made(place: pathlib.Path, workers: int, name: str, settings=SETTINGS):
  report = reddit_dumps.run(
    engine.local(workers, place / name / 'state'),
    [str(place / 'a.jsonl'), str(place / 'b.zst')],
    str(place / name / 'dialogues'),
    settings,
    str(place / 'phrases'),
    [str(place / 'test.tsv')],
  )
  files = sorted((place / name / 'dialogues').iterdir())
  return report, {path.name: path.read_bytes() for path in files}


def test_each_filter_is_counted_and_any_number_of_workers_gives_the_same(place):
  report, files = made(place, 1, 'one')
  wanted = {reason: i + 1 for i, reason in enumerate(REPLIES)}
  # The first turn of a reply that is no comment is alone.
  alone = sum(wanted[reason] for reason in ('deleted', 'quotes', 'one word'))
  wanted |= {'few turns': alone, 'no comment': 1, 'same comment': 1}
  assert report['counts'] == wanted
  assert report['examples']['quotes'] == ['> you said so'] * 3
  assert report['examples']['of a test'] == ['how is it at 6\nSo it is, you know'] * 3
  assert len(files) == reddit_dumps.PARTS
  read = [
    [turn.text for turn in turns]
    for name in files
    for turns in dialogues.read(place / 'one/dialogues' / name)
  ]
  assert read == [['how is it at 0', 'i am fine thank you']]
  assert made(place, 4, 'two') == (report, files)


def test_a_killed_run_goes_on_and_does_no_part_twice(place, monkeypatch):
  report, files = made(place, 1, 'whole')
  write, calls = reddit_dumps._write, []

  def killed(output, numbered):
    calls.append(numbered[0])
    if len(calls) == 5:
      raise KeyboardInterrupt
    return write(output, numbered)

  killed.__module__, killed.__qualname__ = write.__module__, write.__qualname__
  monkeypatch.setattr(reddit_dumps, '_write', killed)
  with pytest.raises(KeyboardInterrupt):
    made(place, 1, 'again')
  assert made(place, 1, 'again') == (report, files)
  assert calls == [0, 1, 2, 3, 4, *range(4, reddit_dumps.PARTS)]


def test_other_settings_are_another_run(place):
  made(place, 1, 'same')
  with pytest.raises(UserError, match='is of other settings or another input'):
    made(place, 1, 'same', SETTINGS._replace(words=20))


def test_the_command_writes_a_report(place, capsys):
  values = launch._parse(
    'dialogues',
    [
      f'--comments={place}/a.jsonl',
      f'--comments={place}/b.zst',
      f'--target={place}/out',
      '--cleaning=paper',
      '--workers=1',
    ],
  )
  launch.VERBS['dialogues'][1](values)
  report = json.loads((place / 'out/report.json').read_text())
  assert report['counts']['kept'] == 1 + 6 + 7  # nothing is blocked, nothing a test
  assert report['settings']['words'] == 30
  assert 'repeated word' in capsys.readouterr().out


@pytest.mark.parametrize(
  'name, content, message',
  [
    ('a.jsonl', b'{"id"\n', 'a.jsonl: line 1 is damaged: not JSON'),
    ('a.jsonl', b'\xff\n', 'a.jsonl: line 1 is not UTF-8'),
    ('b.zst', b'no zstandard', 'b.zst is damaged'),
  ],
)
def test_a_damaged_dump_is_named(place, name, content, message):
  (place / name).write_bytes(content)
  with pytest.raises(UserError, match=message):
    made(place, 1, 'out')
