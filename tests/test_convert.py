"""Weights in and out: parity with goldens of transformers, round trips, bad folders."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import scripts

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError
from gpt_jax.inference import hugging_face
from gpt_jax.inference.language_model import LanguageModel
from gpt_jax.model.gpt import GPT, init_params, unembed
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.runs import evaluate, import_export, train
from gpt_jax.runs.load import load
from gpt_jax.training import loss
from gpt_jax.weights import convert

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDENS = ROOT / 'tests/goldens/hugging_face'
CASES = sorted(path.name for path in GOLDENS.iterdir())


def logits_of(params, cfg, ids):
  return unembed(GPT(cfg), params, GPT(cfg).apply({'params': params}, ids)[0])


def mean_loss(params, cfg, ids):
  logits = logits_of(params, cfg, ids[:, :-1])
  ones = jnp.ones((ids.shape[0], ids.shape[1] - 1))
  return loss.nll_sum(logits, ids[:, 1:], ones) / ones.size


def assert_agrees(model, params, expected, tmp_path):
  """Logits within 1e-4; gradients within 1e-4 of the largest of their tensor."""
  cfg, ids = GPTConfig.of(model, model.vocab), jnp.asarray(expected['ids'], jnp.int32)
  logits = jax.jit(lambda p: logits_of(p, cfg, ids))(params)
  np.testing.assert_allclose(
    logits[..., : cfg.vocab], expected['logits'], atol=1e-4, rtol=0
  )
  gradient = jax.jit(jax.grad(lambda p: mean_loss(p, cfg, ids)))(params)
  # A tree of gradients is written like one of weights.
  (tmp_path / 'gradients').mkdir()
  convert.write(gradient, cfg, 0.0, 0, tmp_path / 'gradients')
  found = safetensors.numpy.load_file(tmp_path / 'gradients/model.safetensors')
  names = set(expected) - {'ids', 'logits'}
  assert found.keys() == names
  for name in names:
    # The key bias has no gradient at all: what is there is rounding.
    largest = max(np.abs(expected[name]).max(), 1e-3)
    np.testing.assert_allclose(
      found[name], expected[name], atol=1e-4 * largest, rtol=0, err_msg=name
    )


@pytest.mark.parametrize('case', CASES)
def test_logits_and_gradients_are_those_of_transformers(case, tmp_path):
  model, params = convert.read(GOLDENS / case)
  config.check(config.Run(model=model))
  assert_agrees(model, params, dict(np.load(GOLDENS / case / 'expected.npz')), tmp_path)


@pytest.mark.parametrize('case', CASES)
def test_what_was_read_is_written_and_read_again_to_the_bit(case, tmp_path):
  model, params = convert.read(GOLDENS / case)
  convert.write(params, GPTConfig.of(model, model.vocab), model.dropout, 0, tmp_path)
  again, params_again = convert.read(tmp_path)
  assert again == model
  assert jax.tree.structure(params) == jax.tree.structure(params_again)
  jax.tree.map(np.testing.assert_array_equal, params, params_again)
  # And the file is the tensors that transformers wrote, no more and no fewer.
  old, new = (
    safetensors.numpy.load_file(folder / 'model.safetensors')
    for folder in (GOLDENS / case, tmp_path)
  )
  assert old.keys() == new.keys()
  for name in old:
    np.testing.assert_array_equal(old[name], new[name])


OURS = {
  'no biases, ReLU': {'bias': False, 'activation': 'relu', 'F': 20},
  'GPT-3 without q, k, v biases': {
    'attention': 'dense,banded',
    'band': 3,
    'qkv_bias': False,
  },
  'GPT-1': {'norm': 'post', 'scaled_init': False},
  'untied': {'tied': False},
  'maximal update': {'mup_base': 4, 'mup_base_N': 2},
  'maximal update, GPT-1': {'norm': 'post', 'scaled_init': False, 'mup_base': 4},
}


def random_model(fields, vocab=40):
  model = config.Model(**{'L': 2, 'D': 12, 'N': 3, 'T': 10} | fields)
  cfg = GPTConfig.of(model, vocab)
  random = np.random.default_rng(0)
  return cfg, jax.tree.map(
    lambda p: p + 0.3 * random.normal(size=p.shape).astype(np.float32),
    init_params(cfg, 0),
  )


@pytest.mark.parametrize('name', OURS)
def test_a_model_trained_here_keeps_its_logits_when_written_and_read(name, tmp_path):
  cfg, params = random_model(OURS[name])
  convert.write(params, cfg, 0.0, 0, tmp_path)
  model, again = convert.read(tmp_path)
  ids = np.random.default_rng(1).integers(0, 40, (2, 10))
  before = logits_of(params, cfg, ids)
  after = logits_of(again, GPTConfig.of(model, model.vocab), ids)
  np.testing.assert_allclose(before, after, atol=1e-4)


def test_a_model_without_a_relative_is_refused_with_every_reason():
  cfg, params = random_model({'norm': 'post', 'activation': 'gelu', 'F': 20})
  with pytest.raises(UserError, match='(?s)openai-gpt.*F=20.*activation=gelu'):
    convert.write(params, cfg, 0.0, 0, None)
  cfg, params = random_model({'attention': 'banded', 'band': 2})
  with pytest.raises(UserError, match='biases of q, k and v must be zero'):
    convert.write(params, cfg, 0.0, 0, None)


def test_shards_are_read_like_one_file(tmp_path, monkeypatch):
  model, params = convert.read(GOLDENS / 'gpt2')
  monkeypatch.setattr(convert, '_SHARD', 2000)
  convert.write(params, GPTConfig.of(model, model.vocab), 0.1, 0, tmp_path)
  assert len(list(tmp_path.glob('*.safetensors'))) > 2
  again, params_again = convert.read(tmp_path)
  assert again == model
  jax.tree.map(np.testing.assert_array_equal, params, params_again)
  next(tmp_path.glob('model-00002*')).unlink()
  with pytest.raises(UserError, match='model-00002-of-.*missing or damaged'):
    convert.read(tmp_path)


def test_old_files_with_masks_and_a_second_tied_matrix_are_read(tmp_path):
  shutil.copytree(GOLDENS / 'gpt2', tmp_path, dirs_exist_ok=True)
  old = safetensors.numpy.load_file(tmp_path / 'model.safetensors')
  arrays = {name.removeprefix('transformer.'): array for name, array in old.items()}
  arrays['lm_head.weight'] = arrays['wte.weight']
  arrays['h.0.attn.bias'] = np.tril(np.ones((1, 1, 11, 11), np.float32))
  arrays['h.1.attn.masked_bias'] = np.float32([-1e4])
  safetensors.numpy.save_file(arrays, tmp_path / 'model.safetensors')
  wanted, found = convert.read(GOLDENS / 'gpt2')[1], convert.read(tmp_path)[1]
  jax.tree.map(np.testing.assert_array_equal, wanted, found)


def test_bfloat16_weights_are_widened(tmp_path):
  shutil.copytree(GOLDENS / 'gpt2', tmp_path, dirs_exist_ok=True)
  old = safetensors.numpy.load_file(tmp_path / 'model.safetensors')
  half = {name: np.asarray(jnp.bfloat16(array)) for name, array in old.items()}
  safetensors.numpy.save_file(half, tmp_path / 'model.safetensors')
  found = convert.read(tmp_path)[1]['wpe']
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, np.float32(half['transformer.wpe.weight']))


def test_every_misfit_of_a_folder_is_in_one_message(tmp_path):
  shutil.copytree(GOLDENS / 'gpt2', tmp_path, dirs_exist_ok=True)
  about = json.loads((tmp_path / 'config.json').read_text())
  about |= {'activation_function': 'swish', 'layer_norm_epsilon': 1e-6}
  (tmp_path / 'config.json').write_text(json.dumps(about))
  arrays = safetensors.numpy.load_file(tmp_path / 'model.safetensors')
  del arrays['transformer.h.1.ln_2.bias']
  arrays['transformer.h.2.ln_1.bias'] = np.zeros(12, np.float32)
  arrays['transformer.wpe.weight'] = np.zeros((10, 12), np.float32)
  arrays['lm_head.weight'] = np.zeros((61, 12), np.float32)
  safetensors.numpy.save_file(arrays, tmp_path / 'model.safetensors')
  with pytest.raises(UserError) as caught:
    convert.read(tmp_path)
  for part in (
    "activation_function='swish' must be one of",
    'layer_norm_epsilon=1e-06 must be 1e-05',
    'missing: h.1.ln_2.bias, [12]',
    'extra: h.2.ln_1.bias, [12]',
    'extra: lm_head.weight, [61, 12]',
    'wpe.weight: shape [10, 12], must be [11, 12]',
  ):
    assert part in str(caught.value)


@pytest.mark.parametrize(
  'name, content, wanted',
  [
    ('model.safetensors', None, 'has no model.safetensors'),
    ('model.safetensors', b'short', 'missing or damaged'),
    ('config.json', b'{', 'damaged'),
    ('config.json', b'{"model_type": "llama"}', "'llama' must be one of gpt2"),
    ('config.json', b'{"model_type": "gpt2"}', 'lacks a whole number for n_layer'),
  ],
)
def test_a_damaged_folder_is_an_error_that_says_how(tmp_path, name, content, wanted):
  shutil.copytree(GOLDENS / 'gpt2', tmp_path, dirs_exist_ok=True)
  (tmp_path / name).unlink()
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=wanted):
    convert.read(tmp_path)


def test_a_truncated_file_of_weights_is_an_error_that_names_it(tmp_path):
  shutil.copytree(GOLDENS / 'gpt2', tmp_path, dirs_exist_ok=True)
  path = tmp_path / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-4])
  with pytest.raises(UserError, match='model.safetensors: missing or damaged'):
    convert.read(tmp_path)


def test_gpt1_as_openai_released_it_is_read(tmp_path):
  random = np.random.default_rng(0)
  D, T, vocab, L = 64, 6, 9, 2
  layer = [[1, D, 3 * D], [3 * D], [1, D, D], [D], [D], [D]]
  layer += [[1, D, 4 * D], [4 * D], [1, 4 * D, D], [D], [D], [D]]
  shapes = [[T, D], [vocab, D], *layer * L]
  (tmp_path / 'params_shapes.json').write_text(json.dumps(shapes))
  arrays = [random.normal(size=s).astype(np.float32) for s in shapes]
  flat = np.concatenate([a.ravel() for a in arrays])
  for i, part in enumerate(np.array_split(flat, 10)):
    np.save(tmp_path / f'params_{i}.npy', part)
  model, params = convert.read(tmp_path)
  assert (model.norm, model.N, model.vocab, model.T) == ('post', 1, vocab, T)
  np.testing.assert_array_equal(params['wpe'], arrays[0])
  np.testing.assert_array_equal(params['wte'][:vocab], arrays[1])
  np.testing.assert_array_equal(
    params['h_1']['attn']['k']['kernel'], arrays[14][0][:, D : 2 * D]
  )
  np.testing.assert_array_equal(params['h_1']['ln_2']['bias'], arrays[-1])
  init = jax.eval_shape(lambda: init_params(GPTConfig.of(model, vocab), 0))
  assert jax.tree.structure(init) == jax.tree.structure(params)


def test_gpt2_as_openai_released_it_is_read(tmp_path, monkeypatch):
  # The checkpoint itself is the matter of test_openai_files.py.
  model, params = convert.read(GOLDENS / 'gpt2')
  file = safetensors.numpy.load_file(GOLDENS / 'gpt2/model.safetensors')
  theirs = {}
  for name, array in file.items():
    name = name.removeprefix('transformer.')
    name = {'wte.weight': 'wte', 'wpe.weight': 'wpe'}.get(name, name)
    for old, new in (('h.', 'h'), ('.bias', '/b'), ('.', '/')):
      name = name.replace(old, new)
    last = '/g' if 'ln_' in name else '/w'
    name = name.replace('/weight', last)
    theirs[f'model/{name}'] = (
      array[None]
      if last == '/w' and array.ndim == 2 and ('wte' not in name and 'wpe' not in name)
      else array
    )
  monkeypatch.setattr(convert, 'read_tensorflow', lambda folder: theirs)
  hparams = {'n_vocab': 61, 'n_ctx': 11, 'n_embd': 12, 'n_head': 3, 'n_layer': 2}
  (tmp_path / 'hparams.json').write_text(json.dumps(hparams))
  found, again = convert.read(tmp_path)
  model.dropout, model.F = 0.0, 0
  assert found == model
  jax.tree.map(np.testing.assert_array_equal, params, again)


def byte_bpe(folder):
  made = tokenizers.train('byte_bpe', ['the cat sat on the mat. ' * 50], 265)
  made.save(folder)
  (folder / 'kind.json').unlink()
  return made


def gpt2_with_tokenizer(folder):
  """Writes a GPT-2 of 265 entries with its tokenizer, as Hugging Face has them."""
  folder.mkdir()
  tokenizer = byte_bpe(folder)
  cfg, params = random_model({'T': 16}, vocab=tokenizer.vocab)
  convert.write(params, cfg, 0.1, tokenizer.eot, folder)
  return folder


@pytest.fixture
def hf_folder(tmp_path):
  return gpt2_with_tokenizer(tmp_path / 'hf')


def test_a_folder_goes_through_import_and_export_unchanged(hf_folder, tmp_path):
  said = import_export.import_model(str(hf_folder), tmp_path / 'w')
  assert 'tokenizer byte_bpe of 265 entries' in said
  model = load(tmp_path / 'w')
  direct = load(hf_folder)
  jax.tree.map(np.testing.assert_array_equal, model.params, direct.params)
  assert model.tokenizer.encode('the cat') == direct.tokenizer.encode('the cat')
  (made,) = model.generate('the cat', max_new_tokens=4, temperature=0)
  (again,) = direct.generate('the cat', max_new_tokens=4, temperature=0)
  assert made.ids == again.ids

  assert 'gpt2' in import_export.export_model(tmp_path / 'w', 'best', tmp_path / 'out')
  for name in ('config.json', 'model.safetensors', 'vocab.json', 'merges.txt'):
    assert (tmp_path / 'out' / name).exists()
  old, new = (
    safetensors.numpy.load_file(folder / 'model.safetensors')
    for folder in (hf_folder, tmp_path / 'out')
  )
  assert old.keys() == new.keys()
  for name in old:
    np.testing.assert_array_equal(old[name], new[name])
  with pytest.raises(UserError, match='is there already'):
    import_export.export_model(tmp_path / 'w', 'best', tmp_path / 'out')
  with pytest.raises(UserError, match='holds a run'):
    import_export.import_model(str(hf_folder), tmp_path / 'w')


def test_an_export_that_fails_leaves_nothing(tmp_path):
  cfg, params = random_model({'attention': 'banded', 'band': 2}, vocab=257)
  model = LanguageModel(params, GPT(cfg), tokenizers.Bytes())
  with pytest.raises(UserError, match='can not be written as gpt_neo'):
    hugging_face.export(model, 0.0, tmp_path / 'out')
  assert list(tmp_path.iterdir()) == []


def test_weights_without_a_tokenizer_are_used_by_numbers(tmp_path):
  import_export.import_model(str(GOLDENS / 'gpt2'), tmp_path / 'w')
  model = load(tmp_path / 'w')
  (made,) = model.generate('3 14 15', max_new_tokens=3, temperature=0)
  assert made.prompt == [3, 14, 15]
  assert made.text.split() == [str(i) for i in made.ids if i != 0]
  with pytest.raises(UserError, match="'cat' is not an id"):
    model.generate('cat')
  said = import_export.export_model(tmp_path / 'w', 'best', tmp_path / 'out')
  assert 'has no tokenizer' in said


def test_a_tokenizer_of_another_model_is_an_error(tmp_path):
  byte_bpe(tmp_path)
  with pytest.raises(UserError, match='has 265 entries, but .* predicts only 61'):
    import_export.import_model(str(GOLDENS / 'gpt2'), tmp_path / 'w', str(tmp_path))
  assert not (tmp_path / 'w').exists()


def test_an_imported_workdir_has_no_text_to_evaluate_on(hf_folder, tmp_path):
  import_export.import_model(str(hf_folder), tmp_path / 'w')
  with pytest.raises(UserError, match='names no text for .*init_from='):
    evaluate.held_out_metrics(tmp_path / 'w')


def test_training_goes_on_from_imported_weights_also_with_new_entries(
  hf_folder, tmp_path
):
  import_export.import_model(str(hf_folder), tmp_path / 'w')
  (tmp_path / 'a.txt').write_text('the cat sat on the mat. ' * 200)
  run = config.Run(steps=1, batch=2, init_from=str(tmp_path / 'w'), devices=1)
  run.model = config.Model(L=2, D=12, N=3, T=16, vocab=300)
  run.data.source, run.data.processes = str(tmp_path / 'a.txt'), 1
  run.optim = config.Optim(name='sgd', lr=0.0, final_lr=0.0, warmup=0)
  run.sample_tokens = 0
  lines = []
  train.train(run, tmp_path / 'tuned', report=lines.append)
  assert '35 entries are new to its vocabulary' in lines
  before, after = load(tmp_path / 'w'), load(tmp_path / 'tuned')
  np.testing.assert_array_equal(before.params['wte'][:265], after.params['wte'][:265])
  assert np.std(after.params['wte'][265:300]) == pytest.approx(0.02, rel=0.2)
  jax.tree.map(np.testing.assert_array_equal, before.params['h_1'], after.params['h_1'])


def test_a_name_of_the_hub_is_read_from_its_cache(hf_folder, tmp_path):
  repository = tmp_path / 'hub/models--someone--tiny'
  (repository / 'refs').mkdir(parents=True)
  commit = 'a' * 40
  (repository / 'refs/v1').write_text(commit)
  shutil.copytree(hf_folder, repository / 'snapshots' / commit)
  code = (
    'import sys, gpt_jax; '
    "print(gpt_jax.load('hf:someone/tiny@v1').config.vocab); "
    "gpt_jax.load('hf:someone/tiny@v2')"
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=os.environ | {'HF_HUB_CACHE': str(tmp_path / 'hub'), 'HF_HUB_OFFLINE': '1'},
  )
  assert done.stdout == '265\n', done.stderr
  assert 'hf:someone/tiny@v2: can not be fetched' in done.stderr


def test_launch_imports_and_exports(hf_folder, tmp_path):
  launch = partial(scripts.launch, tmp_path)
  done = launch('import', f'--source={hf_folder}', '--workdir=w')
  assert done.returncode == 0 and 'imported' in done.stdout, done.stderr
  done = launch('export', '--workdir=w', '--target=out')
  assert done.returncode == 0 and 'wrote out: gpt2' in done.stdout, done.stderr
  done = launch('import', '--source=nowhere', '--workdir=v')
  assert done.returncode == 1 and 'nowhere: holds no weights' in done.stderr
  assert not (tmp_path / 'v').exists()


def test_an_end_of_text_that_the_model_does_not_know_is_not_written(tmp_path):
  cfg, params = random_model(OURS['GPT-1'])
  for eos, wanted in ((39, 39), (40, None)):
    (tmp_path / str(eos)).mkdir()
    convert.write(params, cfg, 0.0, eos, tmp_path / str(eos))
    about = json.loads((tmp_path / str(eos) / 'config.json').read_text())
    assert about['eos_token_id'] == about['bos_token_id'] == wanted
