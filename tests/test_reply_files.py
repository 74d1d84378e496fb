"""Metrics of files of replies: the release's own numbers, by the command itself."""

import json

import pytest

import launch
from gpt_jax.config import UserError
from gpt_jax.evaluation import dialogue_metrics, reply_files

REPLIES = ['the cat sat on the mat', 'a dog', 'the mat the mat']
REFERENCES = [
  ['the cat sat on a mat', 'the the cat'],
  ['a dog ran'],
  ['on the mat', 'the mat', 'mats'],
]


def written(folder, name, rows):
  path = folder / name
  path.write_text('\n'.join(rows) + '\n')
  return path


def command(*arguments):
  values = launch._parse('metrics', list(arguments))
  launch.VERBS['metrics'][1](values)


def test_human_replies_have_the_releases_numbers(shared_data, tmp_path, capsys):
  target = tmp_path / 'metrics.json'
  path = shared_data / 'dialogue/human.ref.6k.txt'
  command(f'--replies={path}', f'--target={target}')
  values = json.loads(target.read_text())['values']
  assert round(values['Dist-1'], 5) == 0.14548
  assert round(values['Dist-2'], 5) == 0.62963
  assert round(values['Entropy-4'], 5) == 10.99510
  assert round(values['Length'], 5) == 13.10017
  printed = capsys.readouterr().out
  assert '0.62963' in printed and '13.10017' in printed and '[nats]' in printed


def test_references_come_from_columns_and_from_files(tmp_path):
  pytest.importorskip('nltk')
  pytest.importorskip('sacrebleu')
  replies = written(tmp_path, 'replies', REPLIES)
  columns = written(tmp_path, 'columns', ['\t'.join(texts) for texts in REFERENCES])
  files = [
    written(tmp_path, f'file{i}', [t[i] if i < len(t) else '' for t in REFERENCES])
    for i in range(3)
  ]
  one = reply_files.measured(replies, [columns])
  assert one['values'] == reply_files.measured(replies, files)['values']
  assert one['references'] == [6, 1, 3]
  assert list(one['files']) == [str(replies), str(columns)]
  values, metrics = one['values'], dialogue_metrics
  for n in (1, 2, 3, 4):
    assert values[f'NIST-{n}'] == metrics.nist(REPLIES, REFERENCES, n)
    assert values[f'BLEU-{n}'] == metrics.bleu(REPLIES, REFERENCES, n)
    assert values[f'sacreBLEU-{n}'] == metrics.sacre_bleu(REPLIES, REFERENCES, n)
  assert values['METEOR'] == metrics.meteor(REPLIES, REFERENCES) > 0


def test_sacrebleu_has_its_own_tokens_and_smoothing():
  sacrebleu = pytest.importorskip('sacrebleu')
  replies, references = ['a cat, sat'], [['a cat , sat']]
  assert dialogue_metrics.sacre_bleu(replies, references) == pytest.approx(100)
  assert dialogue_metrics.bleu(replies, references, 1) < 100
  theirs = sacrebleu.sentence_bleu('the mat the mat', ['on the mat', 'mats']).score
  ours = dialogue_metrics.sacre_bleu(['the mat the mat'], [['on the mat', 'mats']])
  assert ours == pytest.approx(theirs) and ours > 0


def test_a_package_that_lacks_is_said_and_the_rest_measured(tmp_path, monkeypatch):
  def no_stems():
    raise UserError('METEOR needs nltk: `pip install nltk`')

  monkeypatch.setattr(dialogue_metrics, '_stemmer', no_stems)
  replies = written(tmp_path, 'replies', REPLIES)
  references = written(tmp_path, 'references', [texts[0] for texts in REFERENCES])
  result = reply_files.measured(replies, [references])
  assert result['not_measured']['METEOR'] == 'METEOR needs nltk: `pip install nltk`'
  assert 'METEOR' not in result['values'] and result['values']['BLEU-4'] > 0
  cells = list(reply_files.table(result).columns[-1].cells)
  assert 'METEOR needs nltk: `pip install nltk`' in cells


@pytest.mark.parametrize(
  'rows, message',
  [
    (['a', 'b'], 'references has 2 lines for 3 replies; give a line for each'),
    (['a', ' \t', 'b'], 'line 2 of .*references has no reference'),
    ([''], 'references has no text; give a file with a text a line'),
  ],
)
def test_references_that_do_not_fit_are_refused(tmp_path, rows, message):
  references = written(tmp_path, 'references', rows)
  with pytest.raises(UserError, match=message):
    reply_files.measured(written(tmp_path, 'replies', REPLIES), [references])


def test_an_empty_reply_is_a_reply_and_line_ends_of_windows_none(tmp_path):
  path = tmp_path / 'replies'
  path.write_bytes(b'a b\r\n\r\nc d\r\n')
  assert reply_files.read_lines(path) == ['a b', '', 'c d']
  assert reply_files.measured(path)['values']['Length'] == 4 / 3
