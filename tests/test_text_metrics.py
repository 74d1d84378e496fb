"""Metrics of free answers, against values worked out by hand."""

import importlib
import sys

import pytest

from gpt_jax.config import UserError
from gpt_jax.evaluation import text_metrics


def test_answers_are_normalized_as_squad_publishes():
  assert text_metrics.normalized('  The  Cat, a DOG and an owl! ') == 'cat dog and owl'
  assert text_metrics.normalized('theatre an-d') == 'theatre and'
  assert text_metrics.normalized('the.') == ''


def test_exact_keeps_what_em_forgets():
  assert text_metrics.exact(' -38097\n', (' -38097',)) == 1
  assert text_metrics.exact('38097', (' -38097',)) == 0
  assert text_metrics.em('38097', (' -38097',)) == 1
  assert text_metrics.em('The Beatles.', ('Queen', 'beatles')) == 1
  assert text_metrics.em('Beatle', ('beatles',)) == 0


@pytest.mark.parametrize(
  ('written', 'accepted', 'value'),
  [
    ('the big red dog', ['a red dog'], 2 * 2 / (3 + 2)),
    ('dog dog', ['dog'], 2 * 1 / (2 + 1)),
    ('cat', ['dog', 'black cat'], 2 * 1 / (1 + 2)),
    ('cat', ['dog'], 0),
    ('', ['', 'unanswerable'], 1),
    ('Paris', ['unanswerable', ''], 0),
    ('', ['Paris'], 0),
  ],
)
def test_f1_of_words_takes_the_best_answer(written, accepted, value):
  assert text_metrics.f1(written, accepted) == pytest.approx(value)


def test_coqa_leaves_each_answer_out_once():
  # Without 'yes': f1 with 'no' is 0; without 'no': 1.
  assert text_metrics.coqa_f1('yes', ['yes', 'no']) == 0.5
  assert text_metrics.coqa_f1('yes', ['yes', 'yes', 'no']) == 1
  assert text_metrics.coqa_f1('yes', ['yes']) == 1


@pytest.mark.parametrize(
  ('written', 'accepted', 'value'),
  [
    ('4', ['4'], 1),
    ('4.0', ['4'], 1),
    ('4,000 men', ['4000 men'], 1),
    ('5 yards', ['4 yards'], 0),  # another number
    ('4', ['4 yards'], 2 * 1 / (1 + 2)),
    ('4 May 1999', ['May 1999'], 2 * 2 / (3 + 2)),
    ('1993-1997', ['1997'], 2 * 1 / (2 + 1)),
    ('the Bears', ['Bears'], 1),
  ],
)
def test_drop_wants_the_number(written, accepted, value):
  assert text_metrics.drop_f1(written, accepted) == pytest.approx(value)


def test_a_pronoun_is_resolved_if_the_noun_is_named_or_rightly_not():
  noun = [' mr. moncrieff']
  assert text_metrics.coreference(' Moncrieff', noun) == 1
  assert text_metrics.coreference(' Edward', noun) == 0
  assert text_metrics.coreference(' Edward', noun, right=False) == 1
  assert text_metrics.coreference(' Mr. Moncrieff', noun, right=False) == 0
  assert text_metrics.coreference('', noun) == 0


def test_macro_f1_is_the_mean_of_one_against_the_rest():
  # Class 0: TP 1, FP 1, FN 0: 2/3. Class 1: TP 1, FN 1: 2/3. Class 2: never said: 0.
  value = text_metrics.macro_f1([0, 0, 1, 1], [0, 1, 1, 2])
  assert value == pytest.approx((2 / 3 + 2 * 1 / (2 + 2) + 0) / 3)
  with pytest.raises(UserError, match='one example at least'):
    text_metrics.macro_f1([], [])


def test_a_question_is_right_if_all_of_its_answers_are():
  assert text_metrics.question_accuracy([1, 0, 1, 1], [1, 0, 1, 0], list('aabb')) == 0.5


def test_first_sentences_are_those_before_their_marks():
  text = ' One. Two is "this." Three?\nFour'
  assert text_metrics.sentences(text, 3) == 'One.\nTwo is "this.\nThree?'


def test_bleu_is_that_of_sacrebleu():
  pytest.importorskip('sacrebleu')
  same = ['The cat sat on the mat .', 'It rains today again .']
  assert text_metrics.bleu(same, [[each] for each in same]) == pytest.approx(100)
  # 1- to 4-gram precisions 5/6, 3/5, 2/4, 1/3; as long as the reference.
  value = text_metrics.bleu(['the cat sat on the mat'], [['the cat lay on the mat']])
  assert value == pytest.approx(100 * (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25, rel=1e-6)
  with pytest.raises(UserError, match='1 texts and 0 lists'):
    text_metrics.bleu(['x'], [])


def test_rouge_is_that_of_rouge_score():
  pytest.importorskip('rouge_score')
  written, gold = 'the cats sat', ['the cat sat down']
  assert text_metrics.rouge1(written, gold) == pytest.approx(2 * 3 / (3 + 4))
  assert text_metrics.rouge2(written, gold) == pytest.approx(2 * 2 / (2 + 3))
  assert text_metrics.rougeL('a b\nc d', ['c d\na b']) == pytest.approx(1)


@pytest.mark.parametrize(
  ('metric', 'package'), [('bleu', 'sacrebleu'), ('rouge1', 'rouge-score')]
)
def test_a_missing_package_is_named_with_its_command(monkeypatch, metric, package):
  for name in ('sacrebleu', 'rouge_score', 'rouge_score.rouge_scorer'):
    monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(ImportError):
    importlib.import_module(package.replace('-', '_'))
  with pytest.raises(UserError, match=f'`pip install {package}`'):
    getattr(text_metrics, metric)(['x'], [['x']])


def test_answers_must_be_a_list_with_one_at_least():
  for wrong in ('text', []):
    with pytest.raises(UserError, match='must be a list with one text at least'):
      text_metrics.em('x', wrong)


def test_a_word_counts_as_often_as_it_is_in_both():
  assert text_metrics.f1('red red fish', ['red red']) == pytest.approx(4 / 5)
  assert text_metrics.f1('red fish', ['red red']) == pytest.approx(2 / 4)
