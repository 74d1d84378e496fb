"""`where`: rows of training found in the text, and back."""

import json
import os

import numpy as np
import pytest

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError, length
from gpt_jax.data import token_files, windows
from gpt_jax.data.origins import Origins, joined, parted
from gpt_jax.files import write_json
from gpt_jax.runs import rows as run_rows
from gpt_jax.runs import tokens, where

LETTERS = 'abcdefghijklmnopqrstuvwxyz äß'


def random_text(rng, size):
  return ''.join(rng.choice(list(LETTERS), size)).strip() + '.'


def write_texts(folder):
  """Writes files, and files of several documents; returns each document's text."""
  rng, texts = np.random.default_rng(0), {}
  folder.mkdir(parents=True)
  for i in range(8):
    texts[f'{folder}/{i}.txt'] = text = random_text(rng, 150 + 40 * i)
    (folder / f'{i}.txt').write_text(text)
  lines = [random_text(rng, 120 + 10 * i) for i in range(14)]
  with open(folder / 'z.jsonl', 'w') as file:
    for number, text in enumerate(lines, 1):
      texts[f'{folder}/z.jsonl:{number}'] = text
      file.write(json.dumps({'text': text}) + '\n')
  return texts


def written_run(folder, **fields):
  """Writes a workdir as it is before the first update; returns it and the texts."""
  before = os.getcwd()
  os.chdir(folder)
  try:
    texts = write_texts(folder / 'a')
    data = {'source': 'a', 'tokenizer': 'chars', 'holdout': 0.2}
    for name in list(fields):
      if name.startswith('data.'):
        data[name.removeprefix('data.')] = fields.pop(name)
    if data.get('mixture'):
      data['source'] = ''
      texts |= write_texts(folder / 'b')
    run = config.Run(
      batch=8,
      steps=fields.pop('steps', 40),
      data=config.Data(**data),
      model=config.Model(T=16),
      **fields,
    )
    workdir = folder / 'run'
    workdir.mkdir()
    made = tokens.prepared(run, workdir, lambda line: None, trains=True)
    about = {'config': config.flat(run), 'vocab': 1, 'data': made.digests()}
    write_json(workdir / 'run.json', about)
    return workdir, {os.path.abspath(p): text for p, text in texts.items()}
  finally:
    os.chdir(before)


MIXTURE = {
  'data.mixture': 'one={0}/a; two={0}/b',
  'data.weights': 'one=3, two=1; 20: one=1, two=2',
}


@pytest.fixture(scope='module', params=['epochs', 'random', 'mixture', 'ramp'])
def opened(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  fields = {
    'epochs': {},
    'random': {'data.windows': 'random'},
    'mixture': {name: text.format(folder) for name, text in MIXTURE.items()}
    | {'batch_start': 4, 'batch_ramp': 16 * 40},
    'ramp': {'batch_start': 2, 'batch_ramp': 16 * 60, 'data.tokenizer': 'bytes'},
  }[request.param]
  if request.param != 'mixture':
    fields['data.source'] = f'{folder}/a'
  workdir, texts = written_run(folder, **fields)
  return where.Opened(workdir), texts


def test_rows_are_in_the_text_and_places_are_in_the_rows(opened):
  opened, texts = opened
  rng, seen, sources = np.random.default_rng(1), 0, set()
  total = length.rows_read(opened.sizes, opened.run.steps)
  read = {}  # each file's place -> rows, by brute force
  for step in range(opened.run.steps):
    batch = opened.rows(step)
    for i, start in enumerate(batch.starts.tolist()):
      file = 0 if batch.files is None else int(batch.files[i])
      read.setdefault(file, []).append((start, step + 1, i))
  for row in rng.integers(0, total, 250).tolist():
    step, number = windows.batch_with(opened.sizes, row)
    place = where.row_at(opened, step + 1, number)
    sources.add(place['source'])
    text = texts[os.path.abspath(place['name'])].encode()
    start = place['tokens'][0]
    if len(text) == place['offset']:
      continue  # the row begins behind the last letter, with the next document
    seen += 1
    begins = text[place['offset'] :].decode(errors='ignore')
    shown = place['text'].strip('\ufffd')
    assert shown and (begins.startswith(shown) or shown.startswith(begins))
    file, document = parted(place['name'])
    (back,) = where.find(opened, file=file, document=document, offset=place['offset'])
    assert (step + 1, number) in back['rows']
    first, last = back['tokens']
    files = [s.name for s in opened.data.sources]
    hits = [
      (update, i)
      for begin, update, i in read[files.index(place['source'])]
      if begin <= last and begin + opened.T > first
    ]
    assert back['rows'] == sorted(hits) and start <= first <= start + 1
  assert seen > 200
  assert sources == ({'one', 'two'} if opened.data.stages else {''})


def test_a_text_is_found_wherever_it_stands(opened, monkeypatch):
  opened, texts = opened
  for block in (7, 1 << 20):
    monkeypatch.setattr(where, '_BLOCK', block)
    for name, text in list(texts.items())[::5]:
      try:
        found = where.find(opened, text=text[30:50])
      except UserError:
        assert not Origins(opened.data.sources[0].train.path).documents(*parted(name))
        continue
      assert {os.path.abspath(each['name']) for each in found} >= {name}
      for each in found:
        first, last = each['tokens']
        (source,) = (s for s in opened.data.sources if s.name == each['source'])
        ids = source.train.ids[first : last + 1].tolist()
        assert text[30:50] in opened.data.tokenizer.decode(ids)
        assert len(ids) <= len(text[30:50].encode())


def test_a_text_that_is_twice_in_one_document_is_found_twice(tmp_path):
  workdir, _ = written_run(tmp_path, **{'data.source': f'{tmp_path}/a'})
  opened = where.Opened(workdir)
  ids = opened.data.train.ids.tolist()
  text = opened.data.tokenizer.decode(ids[1:])
  for wanted in ('a', 'ab', ' '):
    number = sum(text.startswith(wanted, i) for i in range(len(text)))
    assert number > 1
    found = where.find(opened, text=wanted)
    assert len(found) == min(number, where.MOST)
    assert len({tuple(each['tokens']) for each in found}) == len(found)


def test_what_is_not_in_the_run_is_refused(opened):
  opened, texts = opened
  name = next(iter(texts))
  for arguments, said in (
    ({'update': 0, 'row': 0}, '--step=0 must be in 1..40'),
    ({'update': 41, 'row': 0}, '--step=41 must be in 1..40'),
    ({'update': 40, 'row': 8}, r'--row=8 must be in 0\.\.7, the rows of update 40'),
  ):
    with pytest.raises(UserError, match=said):
      where.row_at(opened, **arguments)
  for arguments, said in (
    ({'text': 'not in there at all'}, 'is not in the training text'),
    ({'file': 'nowhere.txt'}, 'nowhere.txt is not in the training text'),
    ({'file': name, 'offset': 10**6}, 'must be less than'),
    ({'file': 'z.jsonl'}, 'is several documents'),
  ):
    with pytest.raises(UserError, match=said):
      where.find(opened, **arguments)


def test_tokens_without_origins_open_and_say_what_is_missing(tmp_path):
  workdir, _ = written_run(tmp_path, **{'data.source': f'{tmp_path}/a'})
  digest = token_files.open_tokens(workdir / 'tokens/train').digest
  for suffix in ('src', 'names'):
    (workdir / f'tokens/train.{suffix}').unlink()
  opened = where.Opened(workdir)
  assert opened.data.train.digest == digest
  place = where.row_at(opened, 1, 0)
  assert place['name'] == '' and place['document'] >= 0 and place['text']
  assert 'which say where documents come from' in where.missing(opened)
  with pytest.raises(UserError, match='run `launch.py prepare` with the same config'):
    where.find(opened, file='0.txt')


def test_origins_of_documents(tmp_path):
  names = ['a.txt', 'b.jsonl:2', 'b.jsonl:7', 'b.jsonl:10', 'd/a.txt', 'a.txt']
  writer = token_files.Writer(tmp_path / 'x', tokenizers.Bytes(), {})
  for name in names[:3]:
    writer.add(np.array([1, 2]), 2, True, name)
  done = writer.flush()
  writer.close()
  again = token_files.Writer(tmp_path / 'x', tokenizers.Bytes(), done)
  again.add(np.array([1]), 1, False, names[2])
  for name in names[3:]:
    again.add(np.array([1, 2]), 2, True, name)
  again.finish({})
  again.close()
  origins = Origins(tmp_path / 'x')
  assert [origins.name_of(i) for i in range(6)] == names
  # A file that goes on after a kill is named once.
  listed = (tmp_path / 'x.names').read_bytes()
  assert listed == b'a.txt\nb.jsonl\nd/a.txt\na.txt\n'
  assert (
    origins.documents('b.jsonl', 7) == [2] and origins.documents('b.jsonl', 3) == []
  )
  assert origins.documents('b.jsonl', 0) == [1, 2, 3]
  assert origins.documents('a.txt', 0) == [0, 4, 5]
  assert origins.documents('d/a.txt', 0) == [4]
  for name in ('a', 'a:0', 'a:b', ':1', 'a:1:2'):
    assert joined(*parted(name)) == name


def test_rows_of_hosts_are_the_rows_of_one(tmp_path):
  fields = {name: text.format(tmp_path) for name, text in MIXTURE.items()}
  workdir, _ = written_run(tmp_path, **fields)
  opened = where.Opened(workdir)
  for processes in (2, 4):
    for step in (0, 19, 20, 33):
      whole, parts = opened.rows(step), []
      for process in range(processes):
        numbers = np.arange(8).reshape(processes, -1)[process]
        own = run_rows.rows_of(
          opened.run, opened.data, opened.T, opened.sizes, lambda _, own=numbers: own
        )
        parts.append(own(step))
      for name in ('starts', 'numbers', 'files'):
        joint = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joint, getattr(whole, name))


def test_windows_are_drawn_once_an_epoch_of_their_source(tmp_path):
  fields = {name: text.format(tmp_path) for name, text in MIXTURE.items()}
  workdir, _ = written_run(tmp_path, steps=200, **fields)
  opened = where.Opened(workdir)
  seen = {0: [], 1: []}
  for step in range(opened.run.steps):
    batch = opened.rows(step)
    for start, file in zip(batch.starts.tolist(), batch.files.tolist(), strict=True):
      seen[file].append(start)
  assert seen[0][:20] != seen[1][:20]
  for file, starts in seen.items():
    number = opened.epochs[file].number
    assert len(starts) > 2 * number
    for begin in range(0, len(starts), number):
      epoch = starts[begin : begin + number]
      assert len(set(epoch)) == len(epoch)
      assert len({start % 16 for start in epoch}) == 1
