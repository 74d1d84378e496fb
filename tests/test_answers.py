"""Metrics of free answers, against values worked out by hand."""

import importlib
import sys

import pytest

from gpt_jax.config import UserError
from gpt_jax.evaluation import answers


def test_answers_are_normalized_as_squad_publishes():
  assert answers.normalized('  The  Cat, a DOG and an owl! ') == 'cat dog and owl'
  assert answers.normalized('theatre an-d') == 'theatre and'
  assert answers.normalized('the.') == ''


def test_exact_keeps_what_em_forgets():
  assert answers.exact(' -38097\n', (' -38097',)) == 1
  assert answers.exact('38097', (' -38097',)) == 0
  assert answers.em('38097', (' -38097',)) == 1
  assert answers.em('The Beatles.', ('Queen', 'beatles')) == 1
  assert answers.em('Beatle', ('beatles',)) == 0


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
  assert answers.f1(written, accepted) == pytest.approx(value)


def test_coqa_leaves_each_answer_out_once():
  # Without 'yes': f1 with 'no' is 0; without 'no': 1.
  assert answers.coqa_f1('yes', ['yes', 'no']) == 0.5
  assert answers.coqa_f1('yes', ['yes', 'yes', 'no']) == 1
  assert answers.coqa_f1('yes', ['yes']) == 1


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
  assert answers.drop_f1(written, accepted) == pytest.approx(value)


def test_a_pronoun_is_resolved_if_the_noun_is_named_or_rightly_not():
  noun = [' mr. moncrieff']
  assert answers.coreference(' Moncrieff', noun) == 1
  assert answers.coreference(' Edward', noun) == 0
  assert answers.coreference(' Edward', noun, right=False) == 1
  assert answers.coreference(' Mr. Moncrieff', noun, right=False) == 0
  assert answers.coreference('', noun) == 0


def test_macro_f1_is_the_mean_of_one_against_the_rest():
  # Class 0: TP 1, FP 1, FN 0: 2/3. Class 1: TP 1, FN 1: 2/3. Class 2: never said: 0.
  value = answers.macro_f1([0, 0, 1, 1], [0, 1, 1, 2])
  assert value == pytest.approx((2 / 3 + 2 * 1 / (2 + 2) + 0) / 3)
  with pytest.raises(UserError, match='one example at least'):
    answers.macro_f1([], [])


def test_a_question_is_right_if_all_of_its_answers_are():
  assert answers.question_accuracy([1, 0, 1, 1], [1, 0, 1, 0], list('aabb')) == 0.5


def test_first_sentences_are_those_before_their_marks():
  text = ' One. Two is "this." Three?\nFour'
  assert answers.sentences(text, 3) == 'One.\nTwo is "this.\nThree?'


def test_bleu_is_that_of_sacrebleu():
  pytest.importorskip('sacrebleu')
  same = ['The cat sat on the mat .', 'It rains today again .']
  assert answers.bleu(same, [[each] for each in same]) == pytest.approx(100)
  # 1- to 4-gram precisions 5/6, 3/5, 2/4, 1/3; as long as the reference.
  value = answers.bleu(['the cat sat on the mat'], [['the cat lay on the mat']])
  assert value == pytest.approx(100 * (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25, rel=1e-6)
  with pytest.raises(UserError, match='1 texts and 0 lists'):
    answers.bleu(['x'], [])


def test_rouge_is_that_of_rouge_score():
  pytest.importorskip('rouge_score')
  written, gold = 'the cats sat', ['the cat sat down']
  assert answers.rouge1(written, gold) == pytest.approx(2 * 3 / (3 + 4))
  assert answers.rouge2(written, gold) == pytest.approx(2 * 2 / (2 + 3))
  assert answers.rougeL('a b\nc d', ['c d\na b']) == pytest.approx(1)


@pytest.mark.parametrize(
  ('metric', 'package'), [('bleu', 'sacrebleu'), ('rouge1', 'rouge-score')]
)
def test_a_missing_package_is_named_with_its_command(monkeypatch, metric, package):
  for name in ('sacrebleu', 'rouge_score', 'rouge_score.rouge_scorer'):
    monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(ImportError):
    importlib.import_module(package.replace('-', '_'))
  with pytest.raises(UserError, match=f'`pip install {package}`'):
    getattr(answers, metric)(['x'], [['x']])


def test_answers_must_be_a_list_with_one_at_least():
  for wrong in ('text', []):
    with pytest.raises(UserError, match='must be a list with one text at least'):
      answers.em('x', wrong)
