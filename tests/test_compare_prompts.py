"""experiments/prompts/compare.py and experiments/ru/dialogues.py."""

import json
import math
import subprocess
import sys

import jax
import pytest
from scripts import EXPERIMENTS, opened

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.tasks import templates

compare = opened('prompts/compare.py')


@pytest.fixture(scope='module')
def model():
  tokenizer = tokenizers.Characters("abcdefghij' :\n")
  cfg = GPTConfig.of(config.Model(L=1, D=16, N=2, T=32), tokenizer.vocab)
  params = jax.jit(lambda: init_params(cfg, 0))()
  return LanguageModel(params, GPT(cfg), tokenizer)


def written(folder, text, name='prompt.txt'):
  (folder / name).write_text(text, encoding='utf-8')
  return str(folder / name)


def test_right_answers_are_scored_after_the_prompt(model, tmp_path):
  wording = templates.read(written(tmp_path, "{word}: '{answer}'"))
  questions = [{'word': 'ab', 'answer': ['cd', 'e'], 'other': 'x'}]
  first, second = (model.score("ab: '", text).logp for text in ('cd', 'e'))
  want = math.exp(min(-first / 2, -second))
  assert compare.byte_perplexity(model, wording, questions) == pytest.approx(want)

  blank = templates.read(written(tmp_path, '{word}: {answer}'))
  want = math.exp(-model.score('ab:', ' e').logp)  # a byte of the answer itself
  found = compare.byte_perplexity(model, blank, [{'word': 'ab', 'answer': ['e']}])
  assert found == pytest.approx(want)


def test_an_answer_ends_where_its_wording_says(model, tmp_path):
  questions = [{'word': w, 'answer': ['a']} for w in ('ab', 'c')]
  wording = templates.read(written(tmp_path, '{word}{answer}j'))
  for how in {'temperature': 0}, {'beams': 3, 'num_return': 2}, {'seed': 1}:
    found = compare.answered(model, wording, questions, how)
    assert len(found) == 2 and not any('j' in text for text in found)
  prompts = ['ab', 'c']
  longest = model.generate(prompts, temperature=0, max_new_tokens=32)
  found = compare.answered(model, wording, questions, {'temperature': 0})
  assert found == [one.text.split('j')[0].strip() for one in longest]


def test_settings_are_numbers_and_words():
  found = compare.settings_of('temperature=0.5,method=sample,seed=3')
  assert found == {'temperature': 0.5, 'method': 'sample', 'seed': 3}
  with pytest.raises(UserError, match="--settings=beams: 'beams' must be NAME=VALUE"):
    compare.settings_of('beams')


def test_lines_that_are_no_question_are_named(tmp_path):
  good = '{"answer": "a"}\n'
  for bad, says in (
    ('{"question": "x"}', ": no column 'answer'"),
    ('x', ' is damaged: not JSON'),
    ('[1]', ' is damaged: list instead of an object'),
  ):
    with pytest.raises(UserError, match=f'line 2{says}'):
      compare.read(written(tmp_path, good + bad, 'q.jsonl'))
  with pytest.raises(UserError, match='there is no question'):
    compare.read(written(tmp_path, '', 'q.jsonl'))


def test_dialogues_become_documents_once(tmp_path):
  text = '- Раз?\n- Два.\n\n\n- Три\n \n\n\n- Раз?\n- Два.\n'
  source = written(tmp_path, text, 'jokes.txt')
  target = tmp_path / 'jokes.jsonl'
  script = EXPERIMENTS / 'ru/dialogues.py'
  command = [sys.executable, script, f'--source={source}', f'--target={target}']
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  lines = [json.loads(line) for line in target.read_text('utf-8').splitlines()]
  assert lines == [{'text': '- Раз?\n- Два.'}, {'text': '- Три'}]
  empty = written(tmp_path, '\n\n', 'empty.txt')
  done = subprocess.run([*command, f'--source={empty}'], capture_output=True, text=True)
  assert done.returncode == 1 and 'holds no dialogue' in done.stderr
