"""Models that transformers' own Trainer made, imported: what they write is the same.

`make parity` trains them first (benchmarks/train_with_transformers.py, some minutes);
GPT_JAX_TRAINED names another folder of theirs.
"""

import json
import os
import pathlib

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: make parity')
transformers = pytest.importorskip('transformers', reason='make parity installs it')

from gpt_jax import tokenizers  # noqa: E402
from gpt_jax.runs.load import load  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = pathlib.Path(os.environ.get('GPT_JAX_TRAINED') or ROOT / 'runs/parity')
KINDS = 'gpt2', 'openai-gpt', 'gpt_neo'
PROMPTS, NEW = 50, 24


@pytest.fixture(scope='module', params=KINDS)
def folder(request):
  folder = FOLDER / request.param
  if not (folder / 'trained.json').exists():
    pytest.skip(f'no model at {folder}: make parity trains it')
  return folder


@pytest.fixture(scope='module')
def ours(folder):
  return load(folder)


@pytest.fixture(scope='module')
def theirs(folder):
  model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
  assert model.dtype == torch.float32
  return model


@pytest.fixture(scope='module')
def prompts(folder):
  """Beginnings of 50 parts of held-out text, of 4 to 23 words."""
  words = (folder / 'held_out.txt').read_text('utf-8').split()
  step = len(words) // PROMPTS
  found = [' '.join(words[i * step :][: 4 + i % 20]) for i in range(PROMPTS)]
  assert len(set(found)) == PROMPTS
  return found


def generated(theirs, ids, eos, **settings):
  """Returns the new ids of transformers' generate."""
  row = torch.tensor([ids])
  made = theirs.generate(
    row,
    attention_mask=torch.ones_like(row),
    max_new_tokens=NEW,
    do_sample=False,
    pad_token_id=0,
    eos_token_id=eos,
    **settings,
  )
  return made[0, len(ids) :].tolist()


def mean_logp(theirs, ids, new):
  """Returns transformers' mean log p of new ids [nats]: a tie, or a fault?"""
  with torch.no_grad():
    logits = theirs(torch.tensor([[*ids, *new]])).logits[0, len(ids) - 1 : -1]
  logp = logits.double().log_softmax(-1)
  return logp[range(len(new)), list(new)].mean().item()


def test_the_folder_holds_a_model_that_has_learned(folder):
  about = json.loads((folder / 'trained.json').read_text('utf-8'))
  assert about['bits_per_byte'] < 2.5
  assert about['versions'].keys() >= {'torch', 'transformers', 'accelerate'}


def test_prompts_have_the_ids_of_transformers(folder, prompts):
  # 'basic' is how transformers cleans text for GPT-1, whatever is installed.
  ours = tokenizers.open_path(folder, cleaning='basic')
  theirs = transformers.AutoTokenizer.from_pretrained(folder)
  for prompt in prompts:
    assert ours.encode(prompt) == theirs(prompt)['input_ids']


def test_logits_are_those_of_transformers(ours, theirs, prompts):
  for prompt in prompts[:10]:
    ids = ours.prompt_ids(prompt)
    with torch.no_grad():
      wanted = theirs(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(ours.logits(ids), wanted, atol=1e-3, rtol=0)


@pytest.mark.parametrize('beams', [1, 4])
def test_continuations_are_those_of_transformers(ours, theirs, prompts, beams):
  ids = [ours.prompt_ids(prompt)[: ours.config.T - NEW] for prompt in prompts]
  settings = {'method': 'greedy'}
  if beams > 1:  # their score: the mean of log p
    settings = {'beams': beams, 'penalty_form': 'hf', 'length_penalty': 1.0}
  made = ours.generate_ids(ids, max_new_tokens=NEW, **settings)
  differ = []
  for number, (before, found) in enumerate(zip(ids, made, strict=True)):
    wanted = generated(theirs, before, theirs.config.eos_token_id, num_beams=beams)
    if list(found.ids) != wanted:
      scores = [mean_logp(theirs, before, new) for new in (found.ids, wanted)]
      differ.append((prompts[number], list(found.ids), wanted, scores))
  print(f'{PROMPTS - len(differ)} of {PROMPTS} have the same ids')
  assert not differ
