"""Token files and how they are prepared."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax import tokenizers
from gpt_jax.config import Data, UserError
from gpt_jax.data import encode, pieces, prepare, split, token_files

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORDS = 'the quick brown fox jumps over a lazy dog. It\'s 1 of "many" \u2019s naïve\n'


def english(size, seed=0):
  """Returns words in a random order, `size` characters of them."""
  random = np.random.default_rng(seed)
  words = random.choice(WORDS.split(' '), size // 3)
  return ' '.join(words)[:size]


def write(folder, *texts):
  folder.mkdir(exist_ok=True)
  for i, text in enumerate(texts):
    (folder / f'{i:03d}.txt').write_text(text, encoding='utf-8', newline='')
  return str(folder)


def prepared(folder, data, **options):
  """Returns the reported lines, both token files and the tokenizer."""
  lines = []
  prepare.prepare(data, folder, report=lines.append, **options)
  train, valid = (
    token_files.open_tokens(folder / 'tokens' / f) for f in ('train', 'valid')
  )
  return lines, train, valid, tokenizers.load(folder / 'tokenizer')


def contents(folder):
  """Returns the bytes of every file below a folder."""
  return {
    str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file()
  }


def text_of(file, tokenizer):
  """Returns the documents of a token file."""
  ends = [*file.starts[1:], len(file.ids)]
  spans = [
    file.ids[int(a) + 1 : int(b)] for a, b in zip(file.starts, ends, strict=True)
  ]
  return [tokenizer.decode(span) for span in spans]


@pytest.mark.parametrize('kind', tokenizers.TRAINED)
def test_a_token_file_is_eot_document_eot_document(tmp_path, kind):
  train_texts = [english(3000, seed) for seed in range(3)] + ['é']
  data = Data(
    source=write(tmp_path / 'a', *train_texts),
    valid=write(tmp_path / 'b', english(900, 9)),
    tokenizer=kind,
    vocab=296,
  )
  lines, train, valid, tokenizer = prepared(tmp_path / 'w', data)
  assert train.documents == len(train.starts) == 4
  assert list(np.flatnonzero(train.ids == tokenizer.eot)) == list(train.starts)
  assert text_of(train, tokenizer) == train_texts
  assert text_of(valid, tokenizer) == [english(900, 9)]
  assert train.bytes == sum(len(t.encode()) for t in train_texts)
  assert train.ids.dtype == np.uint16 and train.starts.dtype == np.uint64
  assert train.tokenizer == tokenizers.digest(tmp_path / 'w/tokenizer')
  assert train.digest != valid.digest
  assert any('held out' in line for line in lines)
  assert not (tmp_path / 'w/preparing').exists()


def test_ids_are_32_bits_wide_where_16_are_too_few(tmp_path):
  text = ''.join(map(chr, range(0x10000, 0x20010)))
  data = Data(source=write(tmp_path / 'a', text), tokenizer='chars')
  _, train, valid, tokenizer = prepared(tmp_path / 'w', data)
  assert tokenizer.vocab == 0x10011 and train.ids.dtype == np.uint32
  assert text_of(train, tokenizer)[0] + text_of(valid, tokenizer)[0] == text


def test_the_split_by_position_is_that_of_tiny_shakespeare(tmp_path):
  text = english(1_115_394).ljust(1_115_394)
  data = Data(source=write(tmp_path / 'a', text), tokenizer='chars')
  lines, train, valid, tokenizer = prepared(tmp_path / 'w', data)
  assert (len(train.ids) - 1, len(valid.ids) - 1) == (1_003_854, 111_540)
  assert text_of(valid, tokenizer) == [text[1_003_854:]]
  assert 'the last 10 % of each document' in lines[0]


def test_tiny_shakespeare_itself_is_split_as_nanogpt_does(tmp_path, shared_data):
  data = Data(source=f'{shared_data}/text/tinyshakespeare.txt', tokenizer='chars')
  _, train, valid, tokenizer = prepared(tmp_path / 'w', data)
  assert (len(train.ids) - 1, len(valid.ids) - 1) == (1_003_854, 111_540)
  assert tokenizer.vocab == 66


@given(
  count=st.integers(1, 60),
  percent=st.integers(1, 99),
  way=st.sampled_from(['auto', 'documents', 'position']),
)
@settings(max_examples=60, deadline=None)
def test_every_document_is_trained_on_or_held_out(
  tmp_path_factory, count, percent, way
):
  folder = tmp_path_factory.mktemp('a')
  texts = [f'{i:03d}' + 'x' * (i % 7) for i in range(count)]
  data = Data(source=write(folder, *texts), holdout=percent / 100, split=way)
  look = split.look(data, [].append)
  train, valid = [''] * count, [''] * count
  i = {'train': -1, 'valid': -1}
  for piece in split.divide(data, look):
    i[piece.file] += piece.first
    # A document is known by its number, of which a part by position loses some.
    number = int(piece.text[:3]) if look.way == 'documents' else i[piece.file]
    (train if piece.file == 'train' else valid)[number] += piece.text
  if look.way == 'documents':
    assert [a + b for a, b in zip(train, valid, strict=True)] == texts
    held_out = [bool(v) for v in valid]
    assert held_out == [
      (n + 1) * percent // 100 > n * percent // 100 for n in range(count)
    ]
  else:
    begun = [len(t) * (100 - percent) // 100 for t in texts]
    assert [t for t in train if t] == [
      t[:n] for t, n in zip(texts, begun, strict=True) if n
    ]
    assert valid == [t[n:] for t, n in zip(texts, begun, strict=True)]
  assert look.way == (
    way if way != 'auto' else 'documents' if count > 9 else 'position'
  )


@pytest.mark.parametrize('kind', ['byte_bpe', 'unigram', 'bpe', 'chars'])
def test_a_tokenizer_learns_from_the_training_text_alone(tmp_path, kind):
  train, valid = english(3000), 'zqzq zqzq ' * 300
  for folder, data in (
    ('split', {'source': write(tmp_path / 'a', *[train] * 9, valid), 'holdout': 0.1}),
    (
      'given',
      {
        'source': write(tmp_path / 'b', train),
        'valid': write(tmp_path / 'c', valid),
      },
    ),
  ):
    data = Data(tokenizer=kind, vocab=295, **data)
    _, _, held_out, tokenizer = prepared(tmp_path / folder, data)
    assert text_of(held_out, tokenizer) == [valid]
    # Pieces of it would have been learnt, as it is full of them.
    assert len(tokenizer.encode('zqzq')) >= 4, folder
    # Characters can not read it by parts: they are those of all text.


@pytest.mark.parametrize('kind', ['byte_bpe', 'chars', 'bytes', 'unigram', 'bpe'])
def test_a_document_read_in_parts_has_the_ids_of_the_whole(tmp_path, kind):
  text = english(5 * pieces.PART // 2)
  data = Data(
    source=write(tmp_path / 'a', text), tokenizer=kind, vocab=300, holdout=0.01
  )
  _, train, valid, tokenizer = prepared(tmp_path / 'w', data)
  assert train.documents == valid.documents == 1
  assert text_of(train, tokenizer)[0] + text_of(valid, tokenizer)[0] == text
  whole = tokenizer.encode_array(text[: int(len(text) * 0.99)])
  if kind in ('byte_bpe', 'chars', 'bytes'):
    np.testing.assert_array_equal(train.ids[1:], whole)
  else:  # pieces of several words may lie across two parts
    assert abs(len(train.ids) - 1 - len(whole)) <= 8


def test_the_same_recipe_again_changes_nothing(tmp_path):
  data = Data(source=write(tmp_path / 'a', english(2000)), tokenizer='bytes')
  prepared(tmp_path / 'w', data)
  before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'w').rglob('*')}
  shutil.rmtree(tmp_path / 'a')  # not even looked at
  again = dataclasses.replace(data, processes=3, windows='random', tokens='elsewhere')
  assert prepared(tmp_path / 'w', again)[0] == []
  assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / 'w').rglob('*')}


def test_another_recipe_is_refused_with_the_fields_that_differ(tmp_path):
  data = Data(source=write(tmp_path / 'a', english(2000)), tokenizer='bytes')
  prepared(tmp_path / 'w', data)
  before = contents(tmp_path / 'w')
  other = dataclasses.replace(data, tokenizer='chars', holdout=0.2)
  with pytest.raises(UserError) as e:
    prepared(tmp_path / 'w', other)
  assert "data.tokenizer: 'bytes' there, 'chars' now" in str(e.value)
  assert 'data.holdout: 0.1 there, 0.2 now' in str(e.value)
  assert 'data.source' not in str(e.value)
  assert contents(tmp_path / 'w') == before


def test_a_field_that_is_newer_than_the_folder_had_its_default_there(tmp_path):
  data = Data(source=write(tmp_path / 'a', english(2000)), tokenizer='bytes')
  prepared(tmp_path / 'w', data)
  header = tmp_path / 'w/tokens/train.json'
  about = json.loads(header.read_text())
  del about['recipe']['bad_lines']
  header.write_text(json.dumps(about))
  prepared(tmp_path / 'w', data)
  with pytest.raises(UserError, match="data.bad_lines: 'stop' there, 'skip' now"):
    prepared(tmp_path / 'w', dataclasses.replace(data, bad_lines='skip'))


def test_a_given_tokenizer_is_copied_and_part_of_the_recipe(tmp_path):
  texts = [english(3000, seed) for seed in range(3)]
  data = Data(source=write(tmp_path / 'a', *texts), vocab=300)
  first = prepared(tmp_path / 'w', data)[3]
  given = tmp_path / 'w/tokenizer'
  other = Data(source=write(tmp_path / 'b', english(500, 5)), tokenizer='chars')
  _, train, _, tokenizer = prepared(tmp_path / 'v', other, tokenizer=given)
  assert contents(tmp_path / 'v/tokenizer') == contents(given)
  assert train.tokenizer == tokenizers.digest(given) and tokenizer.vocab == first.vocab
  assert prepared(tmp_path / 'v', other, tokenizer=given)[0] == []
  with pytest.raises(UserError, match='data.tokenizer: .*sha256.*chars'):
    prepared(tmp_path / 'v', other)


def test_tokens_that_were_removed_are_made_again_for_the_same_tokenizer(tmp_path):
  data = Data(source=write(tmp_path / 'a', english(9000)), vocab=300)
  prepared(tmp_path / 'w', data)
  before = contents(tmp_path / 'w')
  shutil.rmtree(tmp_path / 'w/tokens')
  prepared(tmp_path / 'w', data)
  assert contents(tmp_path / 'w') == before
  shutil.rmtree(tmp_path / 'w/tokens')
  with pytest.raises(UserError, match='is not the tokenizer that this data makes'):
    prepared(tmp_path / 'w', dataclasses.replace(data, vocab=310))
  assert sorted(p.name for p in (tmp_path / 'w').iterdir()) == ['tokenizer']


@pytest.mark.parametrize('file', ['train.bin', 'train.idx', 'train.json'])
@pytest.mark.parametrize('damage', ['truncated', 'altered', 'missing'])
def test_a_damaged_token_file_is_an_error_that_names_it(tmp_path, file, damage):
  data = Data(source=write(tmp_path / 'a', english(2000)), tokenizer='bytes')
  prepared(tmp_path / 'w', data)
  path = tmp_path / 'w/tokens' / file
  content = path.read_bytes()
  if damage == 'missing':
    path.unlink()
  elif damage == 'truncated':
    path.write_bytes(content[:-2])
  elif file == 'train.json':
    path.write_bytes(content.replace(b'"sha256": "', b'"sha256": "0'))
  else:
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  with pytest.raises(UserError, match='launch.py prepare') as e:
    token_files.open_tokens(tmp_path / 'w/tokens/train')
  assert str(path.with_suffix('')) in str(e.value)
  assert damage != 'missing' or f'{path}: missing' in str(e.value)


def test_token_files_of_another_format_are_an_error(tmp_path):
  data = Data(source=write(tmp_path / 'a', english(2000)), tokenizer='bytes')
  prepared(tmp_path / 'w', data)
  header = tmp_path / 'w/tokens/train.json'
  header.write_text(json.dumps(json.loads(header.read_text()) | {'format': 99}))
  with pytest.raises(UserError, match='format=99, but this version reads 1'):
    token_files.open_tokens(tmp_path / 'w/tokens/train')


@pytest.mark.parametrize(
  ('texts', 'fields', 'wanted'),
  [
    ([''], {}, 'holds no text'),
    (['text'], {'source': 'nowhere.txt'}, 'nowhere.txt'),
    (['text'], {'valid': 'nowhere.txt'}, 'nowhere.txt'),
    (['text'], {'split': 'documents'}, 'no text is left to hold out'),
    (['x'], {}, 'no text is left to train on'),
    (['some text'], {'tokenizer': 'bpe', 'vocab': 9999}, 'data.vocab=9999'),
    (['some text'], {'tokenizer': './nowhere'}, 'nowhere: holds no tokenizer'),
    (['some text'], {'tokenizer': 'nowhere.model'}, 'nowhere.model: '),
    (['some text'], {'sha256': ''}, None),
  ],
)
def test_an_error_leaves_nothing_behind(tmp_path, texts, fields, wanted):
  source = {'source': write(tmp_path / 'a', *texts), 'tokenizer': 'bytes'}
  data = Data(**(source | fields))
  if wanted is None:  # and what is right leaves something
    prepared(tmp_path / 'w', data)
    assert (tmp_path / 'w/tokens').exists()
    return
  with pytest.raises(UserError, match=wanted):
    prepared(tmp_path / 'w', data)
  assert list((tmp_path / 'w').iterdir()) == []


def test_a_bad_line_stops_or_is_counted_in_the_report(tmp_path):
  rows = [json.dumps({'text': english(50, i)}) for i in range(20)]
  (tmp_path / 'a.jsonl').write_text('\n'.join([*rows[:3], '{"text', *rows[3:]]))
  data = Data(source=str(tmp_path / 'a.jsonl'), tokenizer='bytes')
  with pytest.raises(
    UserError, match=r'a.jsonl: line 4 is damaged: not JSON.*bad_lines=skip'
  ):
    prepared(tmp_path / 'w', data)
  assert list((tmp_path / 'w').iterdir()) == []
  lines, train, valid, _ = prepared(
    tmp_path / 'w', dataclasses.replace(data, bad_lines='skip')
  )
  assert train.documents + valid.documents == 20
  assert 'left out 1 line' in lines[1] and 'line 4' in lines[1]


def test_ctrl_c_leaves_nothing_behind(tmp_path):
  def interrupt(line):
    if line.startswith('tokenizer'):
      raise KeyboardInterrupt

  data = Data(source=write(tmp_path / 'a', english(2000)), tokenizer='bytes')
  with pytest.raises(KeyboardInterrupt):
    prepare.prepare(data, tmp_path / 'w', report=interrupt)
  assert list((tmp_path / 'w').iterdir()) == []


# Runs as `python -c SCRIPT SOURCE FOLDER ...`; small numbers, so that little text does.
SCRIPT = """
import sys
from gpt_jax.config import Data
from gpt_jax.data import prepare
prepare._MARK_EVERY, prepare.WORTH_PROCESSES = 3e5, 0
data = Data(source=sys.argv[1], tokenizer='byte_bpe', vocab=300, processes=2)
"""


def start(script, *args):
  return subprocess.Popen(
    [sys.executable, '-c', SCRIPT + script, *map(str, args)],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def test_a_full_disk_is_an_error_that_leaves_nothing_behind(tmp_path):
  source = write(tmp_path / 'a', english(2_000_000))
  script = """
import resource
from gpt_jax.config import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
try:
  prepare.prepare(data, sys.argv[2])
except UserError as e:
  print('error:', e)
"""
  out = start(script, source, tmp_path / 'w').communicate()[0]
  assert 'error: nothing was prepared: ' in out and 'raise the limit of file' in out, (
    out
  )
  assert list((tmp_path / 'w').iterdir()) == []


def test_a_killed_prepare_goes_on_where_it_was_and_ends_with_the_same_files(tmp_path):
  texts = [english(100_000, seed) for seed in range(40)]
  source = write(tmp_path / 'a', *texts)
  go = 'prepare.prepare(data, sys.argv[2])'
  running = start(go, source, tmp_path / 'w')
  mark = tmp_path / 'w/preparing/mark.json'
  while not mark.exists() and running.poll() is None:
    time.sleep(0.002)
  children = subprocess.run(
    ['ps', '--ppid', str(running.pid), '-o', 'pid='], capture_output=True, text=True
  ).stdout.split()
  running.kill()
  assert running.wait() == -signal.SIGKILL
  assert mark.exists() and len(children) == 2
  deadline = time.monotonic() + 20
  while any(os.path.exists(f'/proc/{pid}') for pid in children):
    assert time.monotonic() < deadline, 'encoding processes outlived their parent'
    time.sleep(0.01)

  shutil.copytree(tmp_path / 'w', tmp_path / 'changed')
  out = start(go, source, tmp_path / 'w').communicate()[0]
  assert 'going on from' in out, out
  start(go, source, tmp_path / 'undisturbed').communicate()
  assert contents(tmp_path / 'w') == contents(tmp_path / 'undisturbed')

  # What was left is of no use for other text.
  (tmp_path / 'a/000.txt').write_text('other')
  out = start(go, source, tmp_path / 'changed').communicate()[0]
  assert 'going on from' not in out and 'valid:' in out, out
  assert not (tmp_path / 'changed/preparing').exists()


def test_a_prepare_that_was_killed_while_moving_is_finished_by_the_next(tmp_path):
  data = Data(source=write(tmp_path / 'a', english(2000)), tokenizer='bytes')
  prepared(tmp_path / 'w', data)
  before = contents(tmp_path / 'w')
  (tmp_path / 'w/preparing').mkdir()
  (tmp_path / 'w/tokenizer').rename(tmp_path / 'w/preparing/tokenizer')
  prepared(tmp_path / 'w', data)
  assert contents(tmp_path / 'w') == before


def test_of_two_that_prepare_one_folder_at_once_one_does_and_one_waits(tmp_path):
  source = write(tmp_path / 'a', english(3_000_000))
  go = 'prepare.prepare(data, sys.argv[2])'
  both = [start(go, source, tmp_path / 'w') for _ in range(2)]
  out = ''.join(running.communicate()[0] for running in both)
  assert [running.returncode for running in both] == [0, 0], out
  assert out.count('valid: ') == 1, out
  token_files.open_tokens(tmp_path / 'w/tokens/train')


def test_any_number_of_processes_makes_the_same_files(tmp_path, monkeypatch):
  monkeypatch.setattr(prepare, 'WORTH_PROCESSES', 0)
  texts = [english(30_000, seed) for seed in range(12)]
  data = Data(source=write(tmp_path / 'a', *texts), vocab=300, sampling=0.1)
  for processes in (1, 3):
    prepared(tmp_path / str(processes), dataclasses.replace(data, processes=processes))
  assert contents(tmp_path / '1') == contents(tmp_path / '3')


def test_sampling_redraws_the_training_text_only(tmp_path):
  texts = [english(20_000, seed) for seed in range(12)]
  data = Data(source=write(tmp_path / 'a', *texts), vocab=300)
  _, train, valid, tokenizer = prepared(tmp_path / 'w', data)
  sampled = dataclasses.replace(data, sampling=0.1)
  _, train_s, valid_s, _ = prepared(tmp_path / 's', sampled)
  assert text_of(train_s, tokenizer) == text_of(train, tokenizer)
  assert len(train_s.ids) > len(train.ids)
  assert valid_s.digest == valid.digest


@pytest.mark.parametrize('processes', [1, 2])
def test_text_that_a_given_tokenizer_cannot_encode_is_an_error(tmp_path, processes):
  tokenizers.train('chars', ['abc'], 0).save(tmp_path / 't')
  jobs = [('a', 'abc', 0.0, 0), ('b', 'abd', 0.0, 0)]
  with pytest.raises(UserError, match="character 'd'"):
    list(encode.encoded(jobs, tmp_path / 't', processes))


def test_ids_come_in_the_order_of_the_texts_few_texts_ahead(tmp_path):
  tokenizers.train('bytes', [], 0).save(tmp_path / 't')
  taken = []

  def jobs():
    for i in range(30):
      taken.append(i)
      yield i, f'{i} ' * (10_000 if i % 3 else 1), 0.0, 0

  for n, (i, ids) in enumerate(encode.encoded(jobs(), tmp_path / 't', 2)):
    assert i == n and bytes(ids[:2].tolist()).decode() == f'{i} '[:2]
    assert len(taken) <= n + 5
  assert n == 29


def test_the_death_of_an_encoding_process_is_an_error(tmp_path):
  tokenizers.train('bytes', [], 0).save(tmp_path / 't')
  process = encode._process(tmp_path / 't')
  assert process.ask(('abc', 0.0, 0)).tolist() == [97, 98, 99]
  process._process.kill()
  with pytest.raises(UserError, match=r'died \(exit -9\).*data.processes=1'):
    process.ask(('x' * 1_000_000, 0.0, 0))
  process.end()


def test_memory_does_not_grow_with_the_text(tmp_path):
  size = 40_000_000
  with open(tmp_path / 'a.txt', 'w') as out:
    for _ in range(size // 1_000_000):
      out.write(english(1_000_000))
  script = """
import resource
def peak():
  who = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
  return max(resource.getrusage(w).ru_maxrss for w in who) * 1024
before = peak()
data.tokenizer, data.processes = "bytes", 1
prepare.prepare(data, sys.argv[2], report=lambda line: None)
print(peak() - before)
"""
  out = start(script, tmp_path / 'a.txt', tmp_path / 'w').communicate()[0]
  assert int(out) < size / 2


@pytest.mark.parametrize('module', ['prepare', 'split', 'formats', 'encode'])
def test_the_rooms_of_text_import_without_jax(module):
  code = f'import sys, gpt_jax.data.{module}; assert "jax" not in sys.modules'
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
