"""What `describe` says of a model, against counts by hand and XLA's own figures."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from scripts import launch
from updates import make_run

from gpt_jax import config
from gpt_jax.config import papers
from gpt_jax.model.gpt import GPT, init_params
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.runs import cost, load
from gpt_jax.tasks import inputs
from gpt_jax.tasks.labelled_table import TASKS
from gpt_jax.training import transfer
from gpt_jax.training.objective import LabelledTask
from gpt_jax.training.sharding import Layout

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_parts_of_gpt2_are_those_of_its_formula():
  cfg = GPTConfig.of(papers.gpt2('124M'), 0)
  L, D, V, T = 12, 768, 50_257, 1024
  assert cost.parameters_by_part(cfg) == {
    'wte': V * D,
    'wpe': T * D,
    'attention': L * (4 * D * D + 4 * D),
    'MLP': L * (8 * D * D + 5 * D),
    'LayerNorm': (2 * L + 1) * 2 * D,
  }


def test_an_output_matrix_of_its_own_is_counted_without_its_padding():
  model = config.Model(L=1, D=8, N=2, T=4, tied=False)
  parts = cost.parameters_by_part(GPTConfig.of(model, 130))
  assert parts['lm_head'] == parts['wte'] == 130 * 8


def test_flops_are_six_for_each_weight_and_attention_by_what_it_sees():
  model = config.Model(L=4, D=16, N=2, T=64, attention='dense,banded', band=8)
  found = cost.flops_per_token(GPTConfig.of(model, 100))
  assert found == {
    'attention, linear layers': 6 * 4 * 4 * 16 * 16,
    'attention, pairs of positions': 12 * 16 * (2 * 64 + 2 * 8),
    'MLP': 6 * 4 * 8 * 16 * 16,
    'output': 6 * 100 * 16,
  }


def test_flops_of_gpt3_agree_with_its_table_of_compute():
  # Table D.1 counts 6 for each parameter and no attention: 3.14e23 for 300 B tokens.
  found = cost.flops_per_token(GPTConfig.of(papers.gpt3('175B'), 0))
  linear = sum(found.values()) - found['attention, pairs of positions']
  assert linear * 300e9 == pytest.approx(3.14e23, rel=0.005)


def test_optimizer_state_is_two_moments_of_adamw_and_none_of_sgd():
  run = config.Run(model=config.Model(L=1, D=16, N=2, T=8))
  cfg = GPTConfig.of(run.model, 128)
  adamw = cost.state_bytes(run, cfg)
  run.optim.name = 'sgd'
  sgd = cost.state_bytes(run, cfg)
  assert adamw['optimizer'] == pytest.approx(2 * adamw['parameters'], abs=64)
  assert sgd['optimizer'] < 64 and sgd['gradients'] == adamw['parameters']


ACTIVATIONS = """
import jax, jax.numpy as jnp
from gpt_jax import config
from gpt_jax.model.gpt import GPT, init_params, unembed
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.runs import cost
from gpt_jax.training import loss

cfg = GPTConfig.of(config.Model(L=6, D=192, N=4, T=256), 500)
tree = jax.eval_shape(lambda: init_params(cfg, 0))
ids_BT = jax.ShapeDtypeStruct((4, 256), jnp.int32)

def f(params, ids_BT):
  x_BTD, _ = GPT(cfg).apply({'params': params}, ids_BT)
  logits_BTV = unembed(GPT(cfg), params, x_BTD)
  return loss.nll_sum(logits_BTV, ids_BT, jnp.ones(ids_BT.shape))

compiled = jax.jit(jax.grad(f)).lower(tree, ids_BT).compile()
found = cost.activation_bytes(config.Run(), cfg, 4)
true = compiled.memory_analysis().temp_size_in_bytes
print(true / (found['layers'] + found['output']))
"""


def test_what_fsdp_does_not_divide_is_summed_and_not_gathered():
  # Of 12 and 48 features 8 devices divide the 48, which no rule cuts: so only wte.
  run = make_run(model_D=12, model_N=2, model_L=3, model_T=16, model_dtype='bfloat16')
  run.optim = config.Optim()
  cfg = GPTConfig.of(run.model, 128)
  run.layout = 'fsdp=8'
  over = dataclasses.replace(Layout.imagined(run, 8), whole=True)
  sent = cost.communication_bytes(run, cfg, over)
  wte, rest = 128 * 12, cost.parameter_count(cfg) - 128 * 12
  assert {what: size for what, size in sent.items() if size} == pytest.approx(
    {
      'parameters, gathered over fsdp': 7 / 8 * 4 * wte,  # float32: looked up, too
      'gradients, scattered over fsdp': 7 / 8 * 4 * wte,
      'gradients, summed over fsdp': 2 * 7 / 8 * 4 * rest,
    }
  )
  run.layout = 'data=2,fsdp=4'
  over = dataclasses.replace(Layout.imagined(run, 8), whole=True)
  kernels = 3 * 12 * 12 * 12
  sent = cost.communication_bytes(run, cfg, over)
  parts = wte + 16 * 12 + kernels
  assert sent['gradients, scattered over fsdp'] == pytest.approx(3 / 4 * 4 * parts)
  assert sent['gradients, summed over data'] == pytest.approx(
    4 * (parts / 4 + cost.parameter_count(cfg) - parts)
  )
  gathered = 3 / 4 * (4 * (wte + 16 * 12) + 2 * kernels)
  assert sent['parameters, gathered over fsdp'] == pytest.approx(gathered)


def test_activations_are_near_what_xla_says_it_needs():
  # By a process of its own: the suite's XLA_FLAGS make other programs.
  command = [sys.executable, '-c', ACTIVATIONS]
  env = os.environ | {'XLA_FLAGS': ''}
  run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
  assert run.returncode == 0, run.stderr
  # Fusion keeps less than what the backward pass names; it needs some room to work.
  assert 0.6 < float(run.stdout) < 1.3


def test_a_banded_layer_keeps_less_and_remat_keeps_its_input():
  def layers(**fields):
    model = config.Model(L=2, D=16, N=2, T=512, band=16, **fields)
    run = config.Run(model=model)
    return cost.activation_bytes(run, GPTConfig.of(model, 50), 1)

  dense, banded = layers(), layers(attention='banded')
  # The weights of attention, of 2 layers of 2 heads, float32: a dense layer keeps 5/8
  # of all pairs once, a banded one its own in at most four forms.
  pairs = 512 * 512 * 5 // 8 - 4 * 512 * 2 * 16
  assert dense['layers'] - banded['layers'] >= 2 * 2 * pairs * 4
  one_layer = dense['layers'] / 2
  assert dense['layers, remat'] == 2 * 512 * 16 * 4 + one_layer


@pytest.mark.parametrize('name', ['sst2', 'stsb', 'race'])
@pytest.mark.parametrize('chunk', [0, 16])
def test_activations_of_a_fine_tuning_are_near_what_xla_says(name, chunk):
  run = papers.gpt1_finetuning(name)
  run.loss_chunk, run.model = chunk, config.Model(L=2, D=64, N=2, T=128, vocab=3000)
  cfg, task, rows = GPTConfig.of(run.model, 0), TASKS[name], 4
  gpt = GPT(transfer.grown(cfg))
  objective = LabelledTask.of(run, gpt, task)
  make = lambda: transfer.init(run, cfg, task, init_params(cfg, 0), 0)  # noqa: E731
  C = inputs.sequences_each(task)
  batch = inputs.TaskBatch(
    ids_BCT=jnp.zeros((rows, C, 128), jnp.int32),
    length_BC=jnp.full((rows, C), 128),
    target_BK=jnp.zeros((rows, inputs.classes(task))),
    w_B=jnp.ones(rows),
    row_B=jnp.arange(rows),
  )
  f = lambda tree, batch: sum(objective.losses(tree, batch))  # noqa: E731
  compiled = jax.jit(jax.grad(f)).lower(jax.eval_shape(make), batch).compile()
  true = compiled.memory_analysis().temp_size_in_bytes
  found = cost.activation_bytes(run, cfg, rows)
  assert 0.6 < true / (found['layers'] + found['output']) < 1.4


def test_what_a_fine_tuning_trains_is_counted():
  run = papers.gpt1_finetuning('rte')
  cfg = GPTConfig.of(run.model, 40_478)
  L, D = 12, 768
  new = {'embeddings of the new tokens': 3 * D, 'head': 2 * D + 2}
  model = cost.parameter_count(cfg)
  assert cost.trained_by_part(run, cfg) == {'model': model, **new}
  full = cost.state_bytes(run, cfg)
  run.task.train = 'frozen'
  assert cost.trained_by_part(run, cfg) == new
  frozen = cost.state_bytes(run, cfg)
  assert frozen['parameters'] == full['parameters']
  assert frozen['gradients'] == 4 * sum(new.values())
  run.task.train, run.task.rank = 'lora', 4
  changes = L * 4 * (4 * 2 * D + 2 * 5 * D)
  assert cost.trained_by_part(run, cfg) == {**new, 'low-rank changes': changes}
  logits = cost.task_logits_bytes(run, cfg, 32, 256)
  assert logits == 2 * 4 * 32 * 256 * 40_576
  run.loss_chunk = 32
  assert cost.task_logits_bytes(run, cfg, 32, 256) == logits / 8
  run.task.aux = 0.0
  assert cost.task_logits_bytes(run, cfg, 32, 256) == 0


def test_tokens_of_growing_updates_are_those_that_are_read():
  run = config.Run(steps=10, batch=8, model=config.Model(T=16))
  assert config.tokens_read(run) == 10 * 8 * 16
  assert config.tokens_read(run, 3) == 3 * 8 * 16
  run.batch_start, run.batch_ramp = 4, 16 * 4 * 3
  # Updates of 4 rows up to 3 of them, then of 8.
  assert config.tokens_read(run) == (3 * 4 + 7 * 8) * 16
  assert config.tokens_read(run, 2) == 2 * 4 * 16


def test_launch_describes_a_fine_tuning_without_weights_or_data(tmp_path):
  def describe(source, *flags):
    return launch(
      tmp_path,
      'describe',
      f'--config={ROOT}/experiments/gpt1/finetune.py:rte,lora',
      f'--config.init_from={source}',
      *flags,
    )

  about = {'model_type': 'gpt2', 'n_layer': 2, 'n_embd': 64, 'n_head': 2}
  about |= {'n_positions': 256, 'vocab_size': 50257}
  (tmp_path / 'gpt2').mkdir()
  (tmp_path / 'gpt2/config.json').write_text(json.dumps(about))
  done = describe('gpt2')
  assert done.returncode == 0, done.stderr
  said = ' '.join(done.stdout.split())
  assert '2 of width 64, 2 heads of 32' in said and '50,260' in said
  assert 'embeddings of the new tokens 192 head 130 low-rank changes' in said
  assert '32 examples of 1 x 256 tokens' in said
  assert 'total with --config.loss_chunk=32' in said
  missing = describe('nowhere')
  assert missing.returncode == 1
  assert 'init_from=nowhere: nowhere is no workdir' in missing.stderr
  assert "give a workdir, or a folder of Hugging Face's" in missing.stderr
  about['model_type'] = 'llama'
  (tmp_path / 'gpt2/config.json').write_text(json.dumps(about))
  assert "model_type='llama' must be one of" in describe('gpt2').stderr
  assert '--vocab says nothing to a fine-tuning' in describe('gpt2', '--vocab=9').stderr


def test_the_architecture_of_a_workdir_is_that_of_its_model(task_place):
  assert load.architecture(task_place / 'base') == load.load(task_place / 'base').config


def test_launch_describes_175b_on_many_devices(tmp_path):
  (tmp_path / 'big.py').write_text(
    'from gpt_jax import config, papers\n'
    'def get_config():\n'
    "  return config.Run(batch=8, model=papers.gpt3('175B'))\n"
  )
  done = launch(tmp_path, 'describe', '--config=big.py', '--devices=8')
  assert done.returncode == 0, done.stderr
  assert '174,604,259,328' in done.stdout and 'each of 8' in done.stdout


@pytest.mark.parametrize(
  'tokenizer, vocab', [('bpe', 4096), ('byte_bpe', 4096), ('bytes', 257)]
)
def test_the_vocabulary_is_known_before_there_is_a_tokenizer(tokenizer, vocab):
  run = config.Run(data=config.Data(tokenizer=tokenizer))
  assert cost.vocabulary(run) == vocab
  run.model.vocab = 5000
  assert cost.vocabulary(run) == 5000


def test_only_the_text_knows_its_characters():
  run = config.Run(data=config.Data(tokenizer='chars'))
  with pytest.raises(config.UserError, match='give --vocab'):
    cost.vocabulary(run)
