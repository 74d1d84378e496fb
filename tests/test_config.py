"""The schema: every violation at once, with name, value, rule and remedy."""

import dataclasses
import math
import pathlib
import runpy

import pytest

from gpt_jax import config
from gpt_jax.config import UserError, papers, setting, values
from gpt_jax.reports.experiments_table import claims
from gpt_jax.training import optim

ROOT = pathlib.Path(__file__).resolve().parent.parent


def problems(run, devices=1):
  with pytest.raises(UserError) as caught:
    config.check(run, devices)
  return str(caught.value)


def test_the_default_run_breaks_no_rule():
  config.check(config.Run())


def test_all_violations_are_listed_in_one_message():
  run = config.Run(steps=0, batch=-3)
  run.model.D, run.model.N = 770, 12
  run.optim.schedule = 'cosin'
  text = problems(run)
  for part in ('steps=0', 'batch=-3', 'cosin', 'rsqrt'):
    assert part in text
  assert 'model.D=770 must be a multiple of model.N=12' in text
  assert 'use 768 or 780' in text


def test_a_batch_must_divide_over_devices_and_micro_batches():
  run = config.Run(batch=18, accumulate=2)
  config.check(run, devices=1)
  text = problems(run, devices=4)
  assert 'batch=18' in text and 'use 16 or 24' in text


@pytest.mark.parametrize(
  ('name', 'value'),
  [('steps', 1.5), ('prompts', 'a'), ('seed', '1'), ('model.bias', 1)],
)
def test_a_value_of_another_type_is_named(name, value):
  run = config.from_flat({})
  *path, last = name.split('.')
  setattr(run.model if path else run, last, value)
  assert name in problems(run)


def test_a_schedule_must_fit_into_the_run():
  run = config.Run(steps=10)
  assert 'optim.warmup=100' in problems(run)
  run = config.Run(steps=1000)
  run.optim.schedule, run.optim.cooldown = 'wsd', 950
  assert 'optim.cooldown=950 must be in 1..steps - warmup = 900' in problems(run)


def test_a_config_survives_the_way_to_a_file_and_back():
  run = config.Run(steps=7, prompts=('a', 'b'))
  run.optim.lr = 0.5
  fields = {**config.flat(run), 'prompts': list(run.prompts)}  # as JSON gives it
  assert config.from_flat(fields) == run


def test_the_nearest_names_are_offered():
  names = config.flat(config.Run())
  assert 'optim.lr' in config.nearest('lr', names)
  assert 'steps' in config.nearest('stepz', names)


def test_a_pattern_of_attention_is_made_of_two_words():
  run = config.Run()
  run.model.attention = 'dense,band'
  assert "model.attention='dense,band' must be 'dense', 'banded' or" in problems(run)


def test_a_wider_model_takes_only_optimizers_that_know_its_rate():
  run = config.Run()
  run.model.mup_base = 64
  config.check(run)
  for name in ('adafactor', 'lion', 'sgd'):
    run.optim.name = name
    wanted = f'optim.name={name!r} must be one of adamw, adam_gpt1, adam_dialogpt, muon'
    assert wanted in problems(run)


def test_the_base_of_a_wider_model_has_whole_heads():
  run = config.Run()  # D=128, N=4
  run.model.mup_base = 48
  assert 'model.mup_base=48 must be a multiple of the size of a head, 32' in problems(
    run
  )
  run.model.mup_base_N = 4
  config.check(run)
  run.model.mup_base_N = 5
  assert 'must be a multiple of model.mup_base_N=5' in problems(run)
  run.model.mup_base = 0
  assert 'model.mup_base_N=5 must come with model.mup_base' in problems(run)


def experiments():
  found = []
  for path in sorted(ROOT.glob('experiments/**/*.py')):
    if 'def get_config' in path.read_text(encoding='utf-8'):
      found.append(str(path.relative_to(ROOT)))
  return found


@pytest.mark.parametrize('path', experiments())
def test_every_experiment_is_a_valid_config_and_states_its_claim(path):
  module = runpy.run_path(str(ROOT / path))
  for name in claims(module['__doc__']):  # a file may hold several, by argument
    run = module['get_config'](*([name] if name else []))
    if run.task.name:  # what the user gives, and what follows from the data
      run.init_from, run.task.data, run.steps = 'WORKDIR', 'FOLDER', 1
    config.check(run)
  for word in ('Claim:', 'Source:', 'Cost:', f'--config={path}'):
    assert word in module['__doc__'], word


def test_every_published_size_can_be_trained():
  for family, sizes in (('gpt2', papers.GPT2_SIZES), ('gpt3', papers.GPT3_SIZES)):
    module = runpy.run_path(str(ROOT / f'experiments/{family}/pretrain.py'))
    for size in sizes:
      config.check(module['get_config'](size))


@pytest.mark.parametrize(
  ('change', 'text'),
  [
    ({'init_from': ''}, "init_from='' must name a workdir"),
    ({'task.data': ''}, "task.data='' must name the folder with the files of sst2"),
    ({'task.transfer': '13'}, "task.transfer='13' must be 'all', 'none' or a number"),
    (
      {'task.transfer': '3', 'task.train': 'lora'},
      "must be 'all' with task.train=lora",
    ),
    ({'task.train': 'half'}, 'must be one of full, frozen, lora'),
    ({'task.train': 'lora', 'model.scan': True}, 'model.scan=True must be False'),
    ({'task.dropout': 1.0}, 'task.dropout=1.0 must be in [0, 1)'),
    ({'model.mup_base': 64}, 'model.mup_base=64 must be 0'),
    ({'task.name': ''}, 'seeds=2 must be 1 without a task'),
  ],
)
def test_what_belongs_to_a_task_has_its_rules(change, text):
  run = papers.gpt1_finetuning('sst2')
  run.init_from, run.task.data, run.steps, run.seeds = 'W', 'F', 1, 2
  config.check(run)
  run = config.from_flat(config.flat(run) | change)
  assert text in problems(run)


def test_a_variant_of_fine_tuning_that_is_none_is_named():
  with pytest.raises(UserError, match="'layer=3' is no variant"):
    papers.gpt1_finetuning('sst2', 'layer=3')


FACTS = {
  name: each.metadata | {'default': each.default}
  for name, each, _ in values.fields(config.Run())
}


def changed(name, value):
  return config.from_flat({name: value})


def test_every_field_has_a_known_role():
  assert set(config.fields_with(*setting.ROLES)) == set(FACTS)
  with pytest.raises(ValueError, match='exection'):
    config.fields_with('exection')
  with pytest.raises(ValueError, match='exection'):
    setting.setting(0, role='logging exection')


def test_every_number_has_a_range():
  numbers = {n for n, facts in FACTS.items() if type(facts['default']) in (int, float)}
  assert {n for n in numbers if FACTS[n].get('low') is None} == {'data.holdout'}


@pytest.mark.parametrize('name', [n for n in FACTS if FACTS[n].get('low') is not None])
def test_a_number_out_of_its_range_is_refused(name):
  low, below, default = (FACTS[name][key] for key in ('low', 'below', 'default'))
  kind = type(default)
  rule = f'must be in [{low}, {below})' if below is not None else 'must not be negative'
  rule = 'must be at least 1' if low == 1 else rule
  assert f'{name}={kind(low - 1)} {rule}' in problems(changed(name, kind(low - 1)))
  if below is not None:
    assert f'{name}={kind(below)} {rule}' in problems(changed(name, kind(below)))
  if kind is float:
    assert f'{name}=nan must be a number' in problems(changed(name, math.nan))
  try:  # the lowest is in the range; another rule may refuse it
    config.check(changed(name, kind(low)))
  except UserError as error:
    assert rule not in str(error)


@pytest.mark.parametrize('name', [n for n in FACTS if FACTS[n].get('choices')])
def test_a_word_that_is_no_choice_is_refused_with_all_of_them(name):
  choices = FACTS[name]['choices']
  assert FACTS[name]['default'] in choices
  text = problems(changed(name, 'nothing'))
  assert f"{name}='nothing' must be one of {', '.join(choices)}" in text


def test_a_new_field_is_checked_by_its_line_in_the_schema():
  @dataclasses.dataclass
  class Longer(config.Run):
    depth: int = setting.setting(1, low=1, tasks=False)
    mode: str = setting.setting('a', choices=('a', 'b'))

  config.check(Longer(depth=2, mode='b'))
  text = problems(Longer(depth=0, mode='c'))
  assert 'depth=0 must be at least 1' in text
  assert "mode='c' must be one of a, b" in text
  assert 'depth=1.5 must be of type int' in problems(Longer(depth=1.5))
  run = Longer(depth=2, task=config.Task('sst2', 'F'), init_from='W')
  assert 'depth=2 must be 1 while a task is trained' in problems(run)


@pytest.mark.parametrize('name', [n for n in FACTS if not FACTS[n].get('tasks', True)])
def test_what_a_fine_tuning_does_not_know_must_be_off(name):
  default = FACTS[name]['default']
  other = {bool: True, int: 64, float: 0.5}.get(type(default), 'skip')
  run = papers.gpt1_finetuning('sst2')
  run.init_from, run.task.data, run.steps = 'W', 'F', 1
  text = problems(config.from_flat(config.flat(run) | {name: other}))
  assert f'{name}={other!r} must be {default!r} while a task is trained' in text


def test_a_seed_fits_into_32_bits():
  config.check(config.Run(seed=2**32 - 1))
  assert 'seed=4294967296 must be in [0, 4294967296)' in problems(
    config.Run(seed=2**32)
  )


def test_no_spike_but_a_loss_that_is_not_finite():
  config.check(changed('optim.guard_sigmas', math.inf))


def test_a_number_is_an_argument_of_programs():
  numbers = config.fields_with('number')
  assert {'seed', 'model.dropout', 'optim.lr'} <= set(numbers)
  names = {n.rsplit('.', 1)[-1] for n in numbers} - {'until'}  # `end` is made of it
  assert names <= set(optim.Hyper.__annotations__)


def test_a_run_goes_on_with_another_execution_length_and_logging_and_no_more():
  free = set(config.FREE_ON_RESUME)
  assert {'steps', 'devices', 'model.remat', 'data.processes', 'prompts'} <= free
  assert {n for n in FACTS if n.startswith('exams.')} <= free
  assert not free & {*config.fields_with('identity', 'number', 'training', 'start')}
  assert not free & {'seed', 'model.dtype', 'data.source', 'data.tokens', 'task.data'}


def test_fields_are_told_by_role_and_section():
  start = config.fields_with('start', of='model')
  assert start == config.fields_with('start') == ('model.scaled_init',)
  assert config.fields_with('length', of='') == ('steps', 'tokens', 'epochs')
  assert config.fields_with('length', of='model') == ()
  assert 'exams.data' in config.fields_with('place')


def test_some_text_is_trained_on_and_some_held_out():
  for share in (0.0, 1.0):
    run = config.Run(data=config.Data(holdout=share))
    assert f'data.holdout={share} must be in (0, 1)' in problems(run)
    run.data.valid = 'FOLDER'
    config.check(run)


def test_rules_of_different_kinds_are_told_together():
  run = config.Run(data=config.Data(holdout=1.0, tokenizer='chars', sampling=0.5))
  text = problems(run)
  assert 'data.holdout=1.0' in text and 'data.sampling=0.5 must be 0' in text


def test_a_fine_tuning_has_one_warm_up():
  run = papers.gpt1_finetuning('sst2')
  run.init_from, run.task.data, run.steps = 'W', 'F', 10
  config.check(run)
  run.optim.warmup = 5
  assert 'optim.warmup=5 must be 0 with a task: task.warmup' in problems(run)


def test_the_identity_of_a_run_is_that_of_its_numbers():
  own = config.identity(config.Run())
  for name, value in (('seed', 1), ('optim.lr', 2e-3), ('model.D', 64)):
    assert config.identity(changed(name, value)) != own, name
  for name, value in (('steps', 7), ('devices', 2), ('model.remat', 'block')):
    assert config.identity(changed(name, value)) == own, name


# A run's record and identity leave out what is at its default: another default would
# make other runs of them.
DEFAULTS = {
  'seed': 0,
  'batch': 16,
  'model.L': 4,
  'model.D': 128,
  'model.N': 4,
  'model.T': 128,
  'model.norm': 'pre',
  'model.activation': 'gelu_tanh',
  'model.attention': 'dense',
  'model.band': 256,
  'model.attention_scale': True,
  'model.tied': True,
  'model.bias': True,
  'model.qkv_bias': True,
  'model.scaled_init': True,
  'model.dropout': 0.0,
  'model.dropout_wte': False,
  'model.dtype': 'float32',
  'optim.name': 'adamw',
  'optim.lr': 1e-3,
  'optim.final_lr': 1e-4,
  'optim.schedule': 'cosine',
  'optim.warmup': 100,
  'optim.cooldown': 0,
  'optim.muon_momentum': 0.95,
  'optim.beta1': 0.9,
  'optim.beta2': 0.95,
  'optim.eps': 1e-8,
  'optim.weight_decay': 0.1,
  'optim.clip': 1.0,
  'optim.ema': 0.0,
  'optim.guard': 'off',
  'optim.guard_sigmas': 6.0,
  'task.epochs': 3,
  'task.warmup': 0.002,
  'task.aux': 0.5,
  'task.dropout': 0.1,
  'task.rank': 8,
  'task.alpha': 16.0,
  'data.holdout': 0.1,
  'data.split': 'auto',
  'data.sampling': 0.0,
  'data.windows': 'epochs',
}


def test_defaults_are_those_that_runs_were_recorded_with():
  found = config.flat(config.Run())
  assert {name: found[name] for name in DEFAULTS} == DEFAULTS


def test_a_whole_number_of_any_size_is_right_or_breaks_a_rule():
  odd = -(2**63), -1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 10**30
  whole = [n for n, value in config.flat(config.Run()).items() if type(value) is int]
  assert 'seed' in whole and 'data.vocab' in whole and len(whole) > 30
  for name in whole:
    for value in odd:
      try:
        config.check(config.from_flat({name: value}))
      except UserError as error:
        assert name.rpartition('.')[2] in str(error), (name, value)
