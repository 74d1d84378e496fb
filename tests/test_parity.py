"""Parity with transformers, live: `make parity` installs it; CI has goldens instead."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed: make parity')
transformers = pytest.importorskip('transformers', reason='make parity installs it')

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / 'tests'), str(ROOT / 'tests/goldens')]

from make_hugging_face import CASES, build, ids_of, reference  # noqa: E402
from test_convert import OURS, assert_agrees, random_model  # noqa: E402

from gpt_jax import tokenizers  # noqa: E402
from gpt_jax.inference import hugging_face  # noqa: E402
from gpt_jax.inference.language_model import LanguageModel  # noqa: E402
from gpt_jax.model.gpt import GPT  # noqa: E402
from gpt_jax.weights import convert  # noqa: E402

LARGER = {
  'gpt2_wide': {
    'n_layer': 3,
    'n_embd': 77,
    'n_head': 7,
    'n_positions': 50,
    'vocab_size': 300,
  },
  'openai-gpt_wide': {
    'n_layer': 3,
    'n_embd': 88,
    'n_head': 11,
    'n_positions': 33,
    'vocab_size': 257,
  },
  'gpt_neo_wide': {
    'num_layers': 4,
    'hidden_size': 72,
    'num_heads': 9,
    'max_position_embeddings': 60,
    'vocab_size': 200,
    'attention_types': [[['global', 'local'], 2]],
    'window_size': 16,
  },
}


@pytest.mark.parametrize('case', [*CASES, *LARGER])
def test_logits_and_gradients_are_those_of_transformers(case, tmp_path):
  model = build(case, (CASES | LARGER)[case], seed=1)
  if case in LARGER:  # wide layers add up: smaller weights keep logits below 100
    with torch.no_grad():
      for parameter in model.parameters():
        if parameter.ndim == 2:
          parameter.mul_(0.3)
  model.save_pretrained(tmp_path / 'theirs')
  ids = ids_of(model, seed=2)
  logits, gradients = reference(model, ids)
  ours, params = convert.read(tmp_path / 'theirs')
  assert_agrees(ours, params, {'ids': ids, 'logits': logits} | gradients, tmp_path)


@pytest.mark.parametrize('name', OURS)
@pytest.mark.parametrize('kind', ['byte_bpe', 'bpe', 'chars'])
def test_an_exported_folder_is_opened_by_transformers(name, kind, tmp_path):
  text = 'the cat sat on the mat, and so did the dog.\n' * 30
  tokenizer = tokenizers.train(kind, [text], {'byte_bpe': 275}.get(kind, 290))
  cfg, params = random_model(OURS[name], tokenizer.vocab)
  ours = LanguageModel(params, GPT(cfg), tokenizer)
  hugging_face.export(ours, 0.1, tmp_path / 'out')
  theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'out').eval()
  ids = np.random.default_rng(0).integers(0, cfg.vocab, (2, cfg.T))
  with torch.no_grad():
    found = theirs(torch.tensor(ids)).logits.numpy()
  assert found.shape[-1] == cfg.vocab
  np.testing.assert_allclose(ours.logits(ids), found, atol=1e-4, rtol=0)
  their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'out')
  sample = 'the dog sat on the cat'
  assert their_tokenizer(sample)['input_ids'] == tokenizer.encode(sample)
  # And what transformers saves of it is read here again.
  theirs.save_pretrained(tmp_path / 'again')
  _, again = convert.read(tmp_path / 'again')
  _, exported = convert.read(tmp_path / 'out')
  jax.tree.map(np.testing.assert_array_equal, exported, again)
  assert again['wte'].dtype == jnp.float32
