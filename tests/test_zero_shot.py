"""experiments/gpt2/zero_shot.py: its values, one item at a time, and its verdicts."""

import dataclasses
import functools
import itertools
import json
import math
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from scripts import opened

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError, papers
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPT, init_params, unembed
from gpt_jax.model.gpt_config import Execution, GPTConfig

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPT = ROOT / 'experiments/gpt2/zero_shot.py'
T = 16
RELEASED = GPT(GPTConfig.of(papers.gpt2('124M'), papers.GPT2_VOCAB))


zero_shot = opened('gpt2/zero_shot.py')


@functools.cache
def tiny(characters=' ab=,.-@\n'):
  """A model of a few characters, with weights that make some likelier than others."""
  tokenizer = tokenizers.Characters(''.join(sorted(characters)))
  cfg = GPTConfig.of(config.Model(L=1, D=16, N=2, T=T), tokenizer.vocab)
  draw = np.random.default_rng(2).standard_normal
  like = jax.eval_shape(lambda: init_params(cfg, 0))
  params = jax.tree.map(lambda x: 0.5 * draw(x.shape, np.float32), like)
  return LanguageModel(params, GPT(cfg), tokenizer)


@functools.cache
def program():
  gpt = tiny().gpt
  return jax.jit(
    lambda params, ids_BT: unembed(
      gpt, params, gpt.apply({'params': params}, ids_BT)[0]
    )
  )


def log_probabilities(ids):
  """Returns log p of every next token after at most T ids."""
  assert 0 < len(ids) <= T
  row = np.array([*ids, *[0] * (T - len(ids))], np.int32)[None]
  logits = np.asarray(program()(tiny().params, row), np.float64)
  logits = logits[0, len(ids) - 1, : tiny().config.vocab]
  return logits - np.log(np.exp(logits).sum())


def log_p(context, continuation):
  """Returns log p of each character of a text and whether it is the likeliest."""
  encode = tiny().tokenizer.encode
  before = encode(context) or [tiny().tokenizer.eot]
  ids = (before + encode(continuation))[-T - 1 :]
  places = range(len(ids) - len(continuation), len(ids))
  each = [log_probabilities(ids[:n]) for n in places]
  logps = [logp[ids[n]] for n, logp in zip(places, each, strict=True)]
  return logps, [logp.argmax() == ids[n] for n, logp in zip(places, each, strict=True)]


def test_lambada_scores_the_last_word_whole():
  items = [('a', ' b'), ('ab ab' * 9, ' ba'), ('', ' a'), ('b', '  ab'), ('a b', ' ')]
  # And words as the model would itself go on.
  tokenizer = tiny().tokenizer
  for text in map(''.join, itertools.product('ab,.', repeat=4)):
    ids = tokenizer.encode(text)
    for _ in range(2):
      ids.append(log_probabilities(ids).argmax())
    end = tokenizer.decode(ids)[len(text) :]
    items += [(text, end)] if end.startswith(' ') else []
  each = [log_p(*item) for item in items]
  right = [all(best) for _, best in each]
  assert 0 < sum(right) < len(right)
  # Half a word that is the likeliest is not enough.
  assert any(any(best) and not all(best) for _, best in each)

  lines = [{'text': context + word} for context, word in items]
  found = zero_shot.lambada(tiny(), lines)
  assert found.items == len(items)
  assert found.values['accuracy'] == pytest.approx(np.mean(right))
  nll = -np.mean([sum(logp) for logp, _ in each])
  assert found.values['perplexity'] == pytest.approx(math.exp(nll), rel=1e-4)


def hellaswag_items():
  draw = np.random.default_rng(3)

  def text(longest):
    return ''.join(draw.choice(list(' ab,.'), draw.integers(1, longest)))

  return [
    (text(20), [text(9) for _ in range(4)], int(draw.integers(4))) for _ in range(24)
  ]


def test_hellaswag_takes_the_likeliest_ending_in_sum_and_in_mean():
  items, by_sum, by_mean = hellaswag_items(), [], []
  for context, endings, label in items:
    logps = [log_p(context, f' {ending}')[0] for ending in endings]
    by_sum.append(max(range(4), key=lambda i: sum(logps[i])) == label)
    by_mean.append(max(range(4), key=lambda i: np.mean(logps[i])) == label)
  assert by_sum != by_mean

  names = {'': ('ctx', 'endings', 'label'), 'other contexts': zero_shot.HARNESS}
  for other, fields in names.items():
    lines = [dict(zip(fields, item, strict=True)) for item in items]
    found = zero_shot.hellaswag(tiny(), lines)
    assert found.values['accuracy'] == pytest.approx(np.mean(by_sum))
    assert found.values['normalised accuracy'] == pytest.approx(np.mean(by_mean))
    assert (found.items, found.other) == (24, other)


PAGES = [
  ' = a = \n \n a b , a @-@ b . \n = = b = = \n ab , ba' + ' ab' * 20 + ' . \n ',
  ' = b a = \n \n b @,@ a . \n',
]
SPACED = [
  ' = a =\n\na b, a-b.\n== b ==\nab, ba' + ' ab' * 20 + '.\n',
  ' = b a =\n\nb,a.\n',
]


def test_wikitext_reads_every_token_once_and_counts_the_words_of_the_pages():
  text = ' \n' + '\n'.join(PAGES)
  assert list(zero_shot.pages(text)) == PAGES
  assert [zero_shot.detokenized(page) for page in PAGES] == SPACED
  nll = 0.0
  for page in SPACED:
    ids = [tiny().tokenizer.eot, *tiny().tokenizer.encode(page)]
    for n in range(1, len(ids)):
      # Windows end at T, 2 T ..., and the last at the end of the page.
      end = min(len(ids), 1 + -(-n // T) * T)
      nll -= log_probabilities(ids[max(0, end - 1 - T) : n])[ids[n]]

  found = zero_shot.wikitext(tiny(), text)
  # A page begins and ends with a blank, which makes an empty word of each end.
  words = (2 + 3 + 7 + 5 + 3 + 20 + 1) + (2 + 4 + 4)
  values = found.values
  assert values['word perplexity'] == pytest.approx(math.exp(nll / words), rel=1e-4)
  size = sum(map(len, PAGES))
  assert values['bits per byte'] == pytest.approx(nll / math.log(2) / size, rel=1e-4)
  assert (found.items, found.other) == (2, '')


def test_text_with_unknown_words_is_not_the_raw_text():
  found = zero_shot.wikitext(tiny(' a=\n<unk>'), ' = a = \n <unk> \n')
  assert found.other == 'not the raw text'


def test_de_tokenization_is_the_harnesses():
  # What wikitext_detokenizer of lm-evaluation-harness makes of it.
  page = (
    ' = = = a ( b ) = = = \n the dogs \' tails , he \'s " here " ; [ c ] { d } : 5 ° C '
    '! ? N @.@ 1 @-@ 2 @,@ 3 = = = = \n'
  )
  wanted = (
    ' === a (b) ===\nthe dogs\'tails, he\'s "here"; [c] {d}: 5°C!? N.1-2,3 ====\n'
  )
  assert zero_shot.detokenized(page) == wanted


def test_only_the_released_model_on_all_items_gets_a_verdict():
  expected = zero_shot.PUBLISHED[0]

  def judged(gpt=RELEASED, accuracy=0.3256, items=5153, other=''):
    found = zero_shot.Measured({'accuracy': accuracy}, items, other)
    return zero_shot.verdict(expected, found, gpt)

  assert judged() == (True, 'within 0.001')
  assert judged(accuracy=0.3265)[0] is True
  assert judged(accuracy=0.3267) == (False, 'NOT within 0.001')
  assert judged(GPT(RELEASED.config, Execution(remat='block')))[0] is True
  for none in (
    judged(items=5152),
    judged(other='other contexts'),
    judged(tiny().gpt),
    judged(GPT(RELEASED.config, Execution(dtype='bfloat16'))),
    judged(GPT(dataclasses.replace(RELEASED.config, activation='gelu'))),
  ):
    assert none[0] is None
    assert none[1].startswith('none: ')


def test_a_sample_of_another_model_is_reported_without_verdict(capsys):
  context, endings, label = hellaswag_items()[0]
  long = {'ctx': context, 'endings': ['a' * T, *endings], 'label': label}
  tasks = {
    'LAMBADA': (zero_shot.lambada, [{'text': 'a b'}]),
    'HellaSwag': (zero_shot.hellaswag, [long]),
  }
  assert zero_shot.report(tiny(), tasks) == 2
  out, err = capsys.readouterr()
  rows = [line for line in out.splitlines() if line.startswith('LAMBADA')]
  assert len(rows) == 2
  assert all(' 1  none: not GPT-2 124M' in row for row in rows)
  assert 'HellaSwag: not measured' in out
  assert 'within' not in out
  assert 'NOTHING WAS CHECKED' in err


@pytest.mark.parametrize('at', [0, 1])
@pytest.mark.parametrize(
  'line', ['{"ctx": ""', '[]', '{"text": "a"}', 'null', '{"query": 1}']
)
def test_a_line_that_is_no_item_is_named(tmp_path, line, at):
  lines = [json.dumps({'ctx': '', 'endings': [], 'label': 0})] * 2
  lines[at] = line
  path = tmp_path / 'items.jsonl'
  path.write_text('\n'.join(lines) + '\n')
  with pytest.raises(UserError, match=f'items.jsonl: line {at + 1}(:| is damaged: )'):
    zero_shot.read_lines(str(path), zero_shot.HELLASWAG, zero_shot.HARNESS)


def test_an_empty_file_is_refused(tmp_path):
  path = tmp_path / 'empty.txt'
  path.write_text(' \n')
  with pytest.raises(UserError, match='empty.txt: is empty'):
    zero_shot.read_text(str(path))


def test_without_weights_nothing_is_checked_and_it_says_so(tmp_path):
  items = tmp_path / 'lambada.jsonl'
  items.write_text('{"text": "a b"}\n')
  done = subprocess.run(
    [sys.executable, SCRIPT, '--weights=nowhere', f'--lambada={items}'],
    cwd=tmp_path,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2, done.stderr
  assert done.stdout == ''
  assert done.stderr.startswith('NOTHING WAS CHECKED: ')
  assert 'nowhere' in done.stderr
