"""The report of tokenizers on a corpus."""

import io
from functools import partial

import pytest
from rich.console import Console
from scripts import launch

from gpt_jax import tokenizers
from gpt_jax.config import UserError
from gpt_jax.data import tokenizer_report


def shown(table):
  out = io.StringIO()
  Console(file=out, width=120).print(table)
  return out.getvalue()


@pytest.fixture
def corpus(tmp_path):
  (tmp_path / 'en.txt').write_text('the cat sat on the mat. ' * 3000)
  (tmp_path / 'ru.txt').write_text('кот сидел на коврике. ' * 3000)
  return f'English={tmp_path}/en.txt,{tmp_path}/ru.txt'


def test_the_report_measures_each_tokenizer_on_each_language(corpus):
  rows = tokenizer_report.compare(['bytes', 'chars', 'bpe:300'], corpus)
  assert [(row.language, row.tokenizer) for row in rows] == [
    (language, name)
    for language in ('English', 'ru.txt')
    for name in ('bytes', 'chars', 'bpe:300')
  ]
  by = {(row.language, row.tokenizer): row for row in rows}
  assert by['English', 'bytes'].bytes_per_token == 1
  assert by['English', 'chars'].bytes_per_token == 1
  # 17 letters of two bytes, 4 blanks and a stop.
  assert by['ru.txt', 'chars'].bytes_per_token == pytest.approx(39 / 22, rel=1e-3)
  assert by['English', 'bytes'].tokens_per_word == pytest.approx(4, rel=1e-3)
  assert by['English', 'bpe:300'].bytes_per_token > 2
  assert by['English', 'bpe:300'].vocab == 300
  assert all(row.lossless == 1 and row.unknown == 0 for row in rows)
  assert all(row.speed > 0 for row in rows)
  text = shown(tokenizer_report.comparison_table(rows))
  assert 'English' in text and 'bpe:300' in text


def test_the_report_reads_the_field_of_json_lines_that_it_is_told(tmp_path):
  (tmp_path / 'a.jsonl').write_text('{"story": "%s"}' % ('cat ' * 6000))
  (row,) = tokenizer_report.compare(['bytes'], str(tmp_path / 'a.jsonl'), field='story')
  assert row.tokens_per_word == pytest.approx(4, rel=1e-3)


def test_text_without_an_entry_is_counted_as_unknown(tmp_path):
  tokenizers.train('bpe', ['the cat sat on the mat. ' * 500], 280).save(tmp_path / 't')
  (tmp_path / 'a.txt').write_text('日本' * 20_000)
  (row,) = tokenizer_report.compare([str(tmp_path / 't')], str(tmp_path / 'a.txt'))
  assert row.unknown == 1 and row.lossless == 1
  assert row.bytes_per_token == 1


def test_the_report_needs_text_to_learn_from_and_text_to_measure_on(tmp_path):
  (tmp_path / 'a.txt').write_text('too short')
  with pytest.raises(UserError, match=r'a.txt: 9 characters are too few'):
    tokenizer_report.compare(['bytes'], str(tmp_path / 'a.txt'))
  with pytest.raises(UserError, match="'many' must be a number"):
    (tmp_path / 'a.txt').write_text('long' * 10_000)
    tokenizer_report.compare(['bpe:many'], str(tmp_path / 'a.txt'))


def test_pieces_are_shown_with_ids_and_text_whatever_they_look_like():
  text = ' '.join(shown(tokenizer_report.pieces_table('bytes', '[b]é')).split())
  assert '91' in text and "'['" in text and '<0xC3>' in text
  assert '5 tokens' in text and 'decodes to the same text' in text


def test_pieces_of_a_tokenizer_that_is_not_there_are_an_error(tmp_path):
  with pytest.raises(UserError, match='bpe is made from texts; give the folder'):
    tokenizer_report.pieces_table('bpe', 'text')
  with pytest.raises(UserError, match='nowhere: holds no tokenizer'):
    tokenizer_report.pieces_table(str(tmp_path / 'nowhere'), 'text')
  (tmp_path / 'w').mkdir()
  tokenizers.train('chars', ['text'], 0).save(tmp_path / 'w/tokenizer')
  assert '4 tokens' in shown(tokenizer_report.pieces_table(str(tmp_path / 'w'), 'text'))


def test_launch_shows_pieces_and_says_what_is_missing(tmp_path):
  tokenize = partial(launch, tmp_path, 'tokenize')
  done = tokenize('--tokenizer=bytes', '--text=Hé')
  assert done.returncode == 0 and '3 tokens' in done.stdout, done.stderr
  done = tokenize('--tokenizer=bytes')
  assert done.returncode == 1 and 'either --text' in done.stderr
