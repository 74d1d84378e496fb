"""A model of 65 characters trained elsewhere, none of which ends a text."""

import json
import random
import string

import jax
import numpy as np
import pytest

from gpt_jax import config, tokenizers
from gpt_jax.data import token_files
from gpt_jax.inference import hugging_face
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import Execution, GPTConfig
from gpt_jax.runs import evaluate, import_export, load, train

LETTERS = '\n ' + string.ascii_letters + '.,;:!?-\'"$&'
MODEL = config.Model(L=1, D=16, N=2, T=16, vocab=65)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Gives a folder with weights, characters, a text of documents, and the import."""
  folder = tmp_path_factory.mktemp('place')
  assert len(LETTERS) == 65
  (folder / 'chars.json').write_text(json.dumps(LETTERS and list(LETTERS)))
  cfg = GPTConfig.of(MODEL, 65)
  gpt = GPT(cfg, Execution.of(MODEL, jax.local_devices()[:1]))
  model = LanguageModel(init_params(cfg, 3), gpt, tokenizers.Numbers(65, 65))
  hugging_face.export(model, 0.0, folder / 'weights')
  rng = random.Random(0)
  texts = [''.join(rng.choices(LETTERS, k=40 + i)) for i in range(20)]
  lines = ''.join(json.dumps({'text': text}) + '\n' for text in texts)
  (folder / 'texts.jsonl').write_text(lines)
  import_export.import_model(
    str(folder / 'weights'), folder / 'imported', str(folder / 'chars.json')
  )
  return folder, texts


def run_of(folder, **fields):
  return config.Run(
    steps=2,
    batch=2,
    devices=1,
    sample_tokens=4,
    prompts=('', 'To be'),
    init_from=str(folder / 'imported'),
    data=config.Data(source=str(folder / 'texts.jsonl')),
    model=config.Model(L=1, D=16, N=2, T=16),
    optim=config.Optim(warmup=0),
    **fields,
  )


def test_it_is_imported_trained_on_and_sampled_from(place):
  folder, texts = place
  said = []
  train.train(run_of(folder), folder / 'w', report=said.append)
  file = token_files.open_tokens(folder / 'w/tokens/valid')
  assert file.ids.tolist() == [LETTERS.index(c) for c in texts[9] + texts[19]]
  assert file.starts.tolist() == [0, len(texts[9])]
  model = load.load(folder / 'w')
  assert model.config.vocab == 65 == model.tokenizer.eot
  for prompt in ('To be', ''):
    text = model.generate(prompt, max_new_tokens=8, seed=0)[0].text
    assert len(text) == 8 and set(text) <= set(LETTERS)
  # The row of the id after the vocabulary is padding: nothing trained it.
  before, after = (load.load(folder / name).params['wte'] for name in ('imported', 'w'))
  np.testing.assert_array_equal(before[65:], after[65:])
  assert np.abs(before[:65] - after[:65]).max() > 0


def test_its_loss_is_that_of_its_characters_alone(place):
  """Against logits, in windows of T, of all characters but the first."""
  folder, texts = place
  if not (folder / 'w').exists():
    train.train(run_of(folder), folder / 'w', report=lambda line: None)
  quiet = lambda line: None  # noqa: E731
  found = evaluate.held_out_metrics(
    folder / 'imported', 'best', quiet, held_out=folder / 'w'
  )
  model = load.load(folder / 'imported')
  ids = model.tokenizer.encode(texts[9] + texts[19])
  nll = []
  for start in range(0, len(ids) - 1, 16):
    row = ids[start : start + 17]
    logp = jax.nn.log_softmax(model.logits(row[:-1]))
    nll += [-float(logp[i, y]) for i, y in enumerate(row[1:])]
  assert len(nll) == len(ids) - 1
  assert found['valid_nll'] == pytest.approx(np.mean(nll), rel=1e-5)
  assert found['lost'] == ''


def test_an_export_names_no_end_that_the_model_lacks(place, tmp_path):
  folder, _ = place
  model = load.load(folder / 'imported')
  hugging_face.export(model, 0.0, tmp_path / 'out')
  about = json.loads((tmp_path / 'out/config.json').read_text())
  assert about['eos_token_id'] is None and about['vocab_size'] == 65
  vocab = json.loads((tmp_path / 'out/tokenizer.json').read_text())
  assert len(vocab['model']['vocab']) == 65 and not vocab['added_tokens']
  settings = json.loads((tmp_path / 'out/tokenizer_config.json').read_text())
  assert settings['eos_token'] is None
  assert tokenizers.load(tmp_path / 'out/tokenizer').vocab == 65
