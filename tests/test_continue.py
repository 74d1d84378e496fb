"""Language models that start from a Hugging Face folder: shape, resuming, refusals."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from test_convert import byte_bpe, random_model

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.config.experiment import load as experiment
from gpt_jax.inference import hugging_face
from gpt_jax.runs import import_export, shape, train
from gpt_jax.runs.load import load
from gpt_jax.runs.workdir import read_run
from gpt_jax.weights import convert

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path):
  """A GPT-2 of 265 entries with tokenizer and an end of its own, and a text."""
  place = tmp_path / 'hf'
  place.mkdir()
  tokenizer = byte_bpe(place)
  cfg, params = random_model({'T': 16, 'F': 20}, vocab=tokenizer.vocab)
  convert.write(params, cfg, 0.1, tokenizer.eot, place)
  about = {'eos_token_id': [63, tokenizer.eot], 'temperature': 0.7}
  (place / 'generation_config.json').write_text(json.dumps(about))
  (tmp_path / 'a.txt').write_text('the cat sat on the mat. ' * 300)
  return place


def continued(source, steps=2):
  """The run of experiments/gpt2/continue.py on a folder, made short."""
  run = experiment(str(ROOT / 'experiments/gpt2/continue.py'))
  run.init_from, run.data.source = str(source), str(source.parent / 'a.txt')
  run.steps, run.batch, run.accumulate, run.devices = steps, 2, 1, 1
  run.eval_every, run.optim.warmup, run.optim.schedule = 1, 0, 'constant'
  run.sample_tokens, run.data.processes = 0, 1
  return run


def test_a_released_model_is_continued_in_one_command(folder, tmp_path):
  run, lines = continued(folder), []
  train.train(run, tmp_path / 'w', report=lines.append)
  assert f'starting from the weights of {folder}, update 0' in lines
  model, before = load(tmp_path / 'w'), load(folder)
  assert model.config == before.config
  assert model.ends == before.ends == (63,)
  assert model.tokenizer.encode('the cat') == before.tokenizer.encode('the cat')
  recorded = read_run(tmp_path / 'w').model
  assert (recorded.L, recorded.D, recorded.F, recorded.vocab) == (2, 12, 20, 265)
  assert recorded.dropout == 0.1  # the experiment's
  # Resumed by the same command without the folder, and made longer.
  shutil.move(folder, tmp_path / 'away')
  train.train(continued(folder, steps=3), tmp_path / 'w', report=lines.append)
  assert 'going on from the checkpoint of update 2' in lines
  assert load(tmp_path / 'w', 'latest').step == 3
  run = continued(folder, steps=3)
  run.model.L = 3
  with pytest.raises(UserError, match='leave these out:\nmodel.L: 2 there, 3 here$'):
    train.train(run, tmp_path / 'w', report=lines.append)
  # And out again, with all that the folder said.
  import_export.export_model(tmp_path / 'w', 'latest', tmp_path / 'out')
  there, here = (
    json.loads((place / 'generation_config.json').read_text())
    for place in (tmp_path / 'away', tmp_path / 'out')
  )
  assert there == here
  again = hugging_face.open_model(tmp_path / 'out').model
  latest = load(tmp_path / 'w', 'latest')
  jax.tree.map(np.testing.assert_array_equal, latest.params, again.params)


def test_the_shape_of_an_imported_workdir_is_taken_too(folder, tmp_path):
  import_export.import_model(str(folder), tmp_path / 'i')
  run = continued(folder, steps=1)
  run.init_from = str(tmp_path / 'i')
  train.train(run, tmp_path / 'w', report=lambda text: None)
  assert load(tmp_path / 'w').config == load(folder).config
  assert load(tmp_path / 'w').ends == (63,)
  run = shape.resolved(run, tmp_path / 'w')
  assert shape.resolved(run, tmp_path / 'w') == run == shape.resolved(run)


def test_a_config_of_another_shape_is_refused_before_text_is_read(folder, tmp_path):
  run = config.Run(init_from=str(folder), devices=1, data=config.Data(source='nowhere'))
  with pytest.raises(UserError) as caught:
    train.train(run, tmp_path / 'w', report=lambda text: None)
  text = str(caught.value)
  assert '--config.take_shape=True' in text.splitlines()[0]
  for line in ('model.L: 2 there, 4 here', 'model.D: 12 there, 128 here'):
    assert line in text.splitlines()
  assert 'dropout' not in text and not (tmp_path / 'w/tokenizer').exists()
  # The same shape by hand is the same run but for take_shape.
  run.model = config.Model(L=2, D=12, N=3, T=16, F=20)
  with pytest.raises(UserError, match='nowhere'):
    train.train(run, tmp_path / 'w', report=lambda text: None)


def test_what_can_not_be_started_from_is_refused(folder, tmp_path):
  for take in (True, False):
    run = continued(folder)
    run.init_from, run.take_shape = str(tmp_path / 'none'), take
    with pytest.raises(UserError, match='none must be a workdir, with its run.json'):
      train.train(run, tmp_path / 'w', report=lambda text: None)
  for name in ('vocab.json', 'merges.txt'):
    (folder / name).unlink()
  with pytest.raises(UserError, match='has no tokenizer; import it with one'):
    train.train(continued(folder), tmp_path / 'w', report=lambda text: None)
  run = continued(folder)
  run.init_from = ''
  with pytest.raises(UserError, match="init_from='' must name .* take_shape=True"):
    config.check(run)


def test_a_larger_vocabulary_may_be_asked_for(folder):
  run = continued(folder)
  assert shape.resolved(run).model.vocab == 265
  run.model.vocab = 300
  assert shape.resolved(run).model.vocab == 300
