"""Tokenizers that lose text: found out, said, and not compared by bits/byte."""

import inspect
import json

import numpy as np
import pytest

import launch
from gpt_jax import config, tokenizers
from gpt_jax.config import Data, UserError
from gpt_jax.data import fidelity, prepare, token_files
from gpt_jax.reports import run as report
from gpt_jax.runs import evaluate, train, workdir


class Changing(tokenizers.Bytes):
  """Bytes of a text that is changed first: a tokenizer that normalises."""

  def __init__(self, change, unknown=()):
    self._change, self.unknown = change, frozenset(unknown)

  def encode_array(self, text):
    return super().encode_array(self._change(text))


def record(tokenizer, *texts, size=0):
  """Returns what is kept of a tokenizer and texts."""
  size = size or sum(len(text.encode()) for text in texts)
  kept, seen = fidelity.Fidelity(tokenizer, size), 0
  for i, text in enumerate(texts):
    kept.watch(f'{i}.txt', text, tokenizer.encode_array(text), seen)
    seen += len(text.encode())
  return kept.record


TEXT = 'The Café of ﬁve\n\nwas  "open".'


@pytest.mark.parametrize(
  ('change', 'how'),
  [
    (str.lower, ['letter case']),
    (lambda text: ' '.join(text.split()), ['blanks']),
    (lambda text: text.replace('é', 'e'), ['accents']),
    (lambda text: text.replace('ﬁ', 'fi'), ['forms of characters (NFKC)']),
    (lambda text: text.lower().replace('.', ' .'), ['blanks', 'letter case']),
    (lambda text: text.replace('"', "''"), ['other characters']),
  ],
)
def test_how_a_tokenizer_changes_a_text_is_told_in_the_fewest_words(change, how):
  found = record(Changing(change), 'as it is', TEXT)
  assert (found['pieces'], found['changed'], found['how']) == (2, 1, how)
  assert fidelity.lost(found, 'bytes') == f'its tokenizer changes {", ".join(how)}'


def test_the_first_difference_is_shown_with_its_document():
  found = record(
    Changing(lambda text: text.replace('d', '')), 'a b c', 'x' * 50 + 'cde'
  )
  assert found['first'] == ['1.txt', 'x' * 23 + 'cde', 'x' * 23 + 'ce']
  said = fidelity.described(found, 60)
  assert '1 of 2 pieces' in said and "first in 1.txt, 'xxx" in said
  assert record(Changing(lambda text: text[:2]), 'abc')['first'] == [
    '0.txt',
    'abc',
    'ab',
  ]


def test_unknown_text_is_counted_and_is_a_loss_where_it_does_not_come_back():
  tokenizer = Changing(lambda text: text.replace('é', '?'), unknown=[ord('?')])
  found = record(tokenizer, 'é', 'éa')
  assert (found['unknown'], found['lost']) == (2, 2)
  assert found['how'] == ['characters that it does not know']
  assert fidelity.described(found, 4).startswith('50 % unknown; ')
  # Outside the sample it is a loss all the same.
  tokenizer = Changing(str, unknown=[ord('?')])
  found = record(tokenizer, 'abc', '?')
  assert found['changed'] == 0 and 'unknown text does not come' in fidelity.described(
    found, 4
  )
  assert fidelity.lost(found, 'bytes') == (
    'its tokenizer loses text that is unknown to it'
  )


@pytest.mark.parametrize('kind', tokenizers.TRAINED)
def test_tokenizers_trained_here_lose_nothing(kind):
  text = inspect.getsource(fidelity) + 'The cats of the ﬁfth sea\n\n  saw ÉTÉ. '
  trained = tokenizers.train(kind, [text, '☃'], 400)
  found = record(trained, text, *([] if kind == 'chars' else ['new: ☃日']))
  assert found['changed'] == found['lost'] == 0
  assert (found['unknown'] > 0) == (kind in ('bpe', 'unigram'))  # as bytes
  assert fidelity.lost(found, kind) == ''
  assert 'came back unchanged' in fidelity.described(found, 100)


def test_the_sample_is_spread_over_the_text(monkeypatch):
  monkeypatch.setattr(fidelity, 'SAMPLE', 100)
  found = record(Changing(str.lower), *['Abcdefghij'] * 100)
  assert found['bytes'] == found['pieces'] * 10 and 9 <= found['pieces'] <= 11
  monkeypatch.setattr(fidelity, 'SAMPLE', 10_000)
  assert record(Changing(str.lower), *['Abcdefghij'] * 100)['pieces'] == 100


def test_an_older_record_goes_on_and_a_damaged_one_is_refused():
  kept = fidelity.Fidelity(Changing(str.lower), 6, record(Changing(str.lower), 'Ab'))
  kept.watch('1.txt', 'cD', np.array([99, 100]), 2)
  assert kept.record['pieces'] == 2 and kept.record['first'][0] == '0.txt'
  whole = kept.record
  assert fidelity.checked(whole, 'x', 'again') == whole
  assert fidelity.checked({}, 'x', 'again') == {}
  for damage in ({'how': [3]}, {'changed': 'a'}, {'first': None}):
    with pytest.raises(UserError, match='x is damaged: .*; again'):
      fidelity.checked(whole | damage, 'x', 'again')


def normalising(folder, text):
  """Returns the path of a SentencePiece model as others train them: it normalises."""
  sentencepiece = pytest.importorskip('sentencepiece')
  path = folder / 'lossy.model'
  with open(path, 'wb') as writer:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(text.split('\n')),
      model_writer=writer,
      vocab_size=60,
      model_type='bpe',
      hard_vocab_limit=False,
      minloglevel=2,
    )
  return path


ENGLISH = 'the cats of the sea saw a dog and then the dog saw the sea\n' * 20


def test_a_model_of_another_language_is_found_out_by_prepare(tmp_path):
  model = normalising(tmp_path, ENGLISH)
  (tmp_path / 'ru.txt').write_text('Солнышко светило ярко, и кошка спала.\n' * 40)
  said, data = [], Data(source=str(tmp_path / 'ru.txt'), tokenizer=str(model))
  prepare.prepare(data, tmp_path / 'w', report=said.append)
  train = next(line for line in said if line.startswith('train: '))
  assert ' % unknown; ' in train and 'characters that it does not know' in train
  assert "'Солнышко светило ярко, и" in train
  file = token_files.open_tokens(tmp_path / 'w/tokens/valid')
  unknown = tokenizers.load(tmp_path / 'w/tokenizer').unknown
  ids = file.ids.tolist()
  assert file.fidelity['unknown'] == sum(i in unknown for i in ids) > len(ids) / 3
  assert 'does not know' in fidelity.lost(file.fidelity, 'sentencepiece')


def test_headers_of_older_versions_say_what_can_be_known(tmp_path):
  (tmp_path / 'a.txt').write_text(ENGLISH)
  data = Data(source=str(tmp_path / 'a.txt'), tokenizer='bytes')
  prepare.prepare(data, tmp_path / 'w', report=lambda line: None)
  header = tmp_path / 'w/tokens/valid.json'
  about = json.loads(header.read_text())
  assert about.pop('fidelity')['changed'] == 0
  header.write_text(json.dumps(about))
  assert token_files.open_tokens(tmp_path / 'w/tokens/valid').fidelity == {}
  assert fidelity.lost({}, 'byte_bpe') == fidelity.lost({}, 'chars') == ''
  assert 'letter case' in fidelity.lost({}, 'gpt1')
  assert 'is not known' in fidelity.lost({}, 'sentencepiece')
  header.write_text(json.dumps(about | {'fidelity': {'how': []}}))
  with pytest.raises(UserError, match=r'valid.json: fidelity is damaged.*prepare'):
    token_files.open_tokens(tmp_path / 'w/tokens/valid')


def test_bits_of_a_changed_text_are_marked_wherever_they_are_told(
  tmp_path, monkeypatch, capsys
):
  (tmp_path / 'a.txt').write_text(ENGLISH.replace('cats', 'CATS') * 2)
  run = config.Run(
    steps=1,
    batch=2,
    sample_tokens=0,
    devices=1,
    data=Data(
      source=str(tmp_path / 'a.txt'), tokenizer=str(normalising(tmp_path, ENGLISH))
    ),
    model=config.Model(L=1, D=8, N=1, T=8),
    optim=config.Optim(warmup=0),
  )
  said, work = [], tmp_path / 'w'
  train.train(run, work, report=said.append)
  mark = 'bits/byte are not comparable with those of other tokenizers: its tokenizer '
  assert any(line.startswith(mark) for line in said)
  found = evaluate.held_out_metrics(work, report=said.append)
  assert found['lost'].endswith('characters that it does not know')
  assert list(evaluate.baselines(work, said.append)) == [
    '5-gram (Kneser-Ney, same tokens)'
  ]
  assert said[-1].startswith(f'no xz baselines: {mark}')
  workdir.keep_held_out(work, {'text': '', 'int8': False, 'baselines': {}, **found})
  page, _ = report.write(work, tmp_path / 'report')
  assert f'Note: {mark}' in page.read_text().replace('\\', '')
  assert workdir.text_lost(work) == found['lost']
  monkeypatch.setattr('sys.argv', ['launch.py', 'eval', f'--workdir={work}'])
  launch.main()
  assert mark in capsys.readouterr().out
