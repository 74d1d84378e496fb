"""Whole runs through launch.py, as a user: resume, kill, bad input, `load`."""

import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import scripts
import tiny_text

import gpt_jax
from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.runs import evaluate
from gpt_jax.runs.train import train as train_run
from gpt_jax.runs.workdir import read_held_out, read_run
from gpt_jax.training import checkpoint, metrics_log, step

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXPERIMENT = """
from gpt_jax import config

def get_config():
  return config.Run(
    steps=60, batch=8, log_every=2, eval_every=10, eval_batch=4, sample_tokens=12,
    prompts=('', 'the'),
    data=config.Data(source='text', tokenizer='chars', holdout=0.2),
    model=config.Model(L=1, D=16, N=2, T=16, dropout=0.1),
    optim=config.Optim(lr=1e-2, final_lr=1e-3, warmup=5),
  )
"""


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """A folder with an experiment and a text of random words."""
  folder = tmp_path_factory.mktemp('place')
  (folder / 'tiny.py').write_text(EXPERIMENT)
  tiny_text.write(folder)
  return folder


def command(*arguments, devices=1):
  count = '--xla_force_host_platform_device_count'  # the last one counts
  env = {
    **os.environ,
    'PYTHONPATH': str(ROOT),
    'JAX_PLATFORMS': 'cpu',
    'GIT_DIR': '/nowhere',  # the size of run.json does not depend on the checkout
    'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {count}={devices}',
  }
  return [sys.executable, str(ROOT / 'launch.py'), *map(str, arguments)], env


def launch(place, *arguments, devices=1, **kwargs):
  line, env = command(*arguments, devices=devices)
  return subprocess.run(
    line, cwd=place, env=env, capture_output=True, text=True, timeout=300, **kwargs
  )


def train(place, workdir, *overrides, **kwargs):
  return launch(
    place, 'train', '--config=tiny.py', f'--workdir={workdir}', *overrides, **kwargs
  )


def train_here(place, workdir, *overrides):
  """Trains in this process: for what is refused or finished before an update."""
  flags = '--config=tiny.py', f'--workdir={workdir}'
  return scripts.launch(place, 'train', *flags, *overrides)


def state_of(workdir, at=None):
  run = config.from_flat(json.loads((workdir / 'run.json').read_text())['config'])
  vocab = json.loads((workdir / 'run.json').read_text())['vocab']
  like = jax.eval_shape(lambda: step.new_state(run, GPTConfig.of(run.model, vocab)))
  saved = checkpoint.Checkpoints(workdir / 'checkpoints')
  state = saved.restore(at or saved.latest(), like)
  saved.close()
  return jax.tree.map(np.asarray, state)


def metrics_of(workdir):
  lines = metrics_log.read_metrics(workdir)
  return [
    {k: v for k, v in line.items() if k not in metrics_log.CLOCK_FIELDS}
    for line in lines
  ]


def assert_same_runs(a, b):
  jax.tree.map(np.testing.assert_array_equal, state_of(a), state_of(b))
  assert metrics_of(a) == metrics_of(b)
  for name in ('samples.txt', 'fingerprints.jsonl'):
    assert (a / name).read_text() == (b / name).read_text()


@pytest.fixture(scope='module')
def undisturbed(place):
  done = train(place, 'undisturbed')
  assert done.returncode == 0, done.stderr
  assert 'finished: 60 updates' in done.stdout
  assert 'utilisation unknown (no peak known for cpu' in done.stdout
  return place / 'undisturbed'


def test_a_run_records_every_due_step_once(undisturbed):
  lines = metrics_of(undisturbed)
  trained = [line['step'] for line in lines if 'loss' in line]
  evaluated = [line['step'] for line in lines if 'valid_nll' in line]
  assert trained == list(range(2, 61, 2))
  assert evaluated == list(range(10, 61, 10))
  samples = (undisturbed / 'samples.txt').read_text()
  assert samples.count('=== step') == 6 and '\n[the]' in samples
  about = json.loads((undisturbed / 'run.json').read_text())
  (session,) = about['sessions']
  assert session['environment']['versions']['jax'] == jax.__version__
  assert 'model/gpt.py' in session['environment']['sources']
  assert set(about['data']) == {
    'train',
    'valid',
    'tokenizer',
    'text',
    'valid_text',
    'files',
    'fidelity',
  }
  assert list((undisturbed / 'tensorboard').iterdir())
  clock = set(metrics_log.CLOCK_FIELDS) - {'mfu'}  # a CPU's peak is unknown
  for line in metrics_log.read_metrics(undisturbed):
    assert set(metrics_log.CLOCK_FIELDS) & set(line) == (
      clock if 'loss' in line else set()
    )
  losses = [line['loss'] for line in lines if 'loss' in line]
  assert losses[-1] < 0.8 * losses[0]
  for line in lines:
    if 'loss' in line:
      # 1e-2 after 5 updates, then a cosine down to 1e-3 with update 60.
      share = 0.5 * (1 + np.cos(np.pi * max(line['step'] - 5, 0) / 55))
      rate = min(1, line['step'] / 5) * (1e-3 + 9e-3 * share)
      assert line['lr'] == pytest.approx(rate, rel=1e-4)
      assert 0.01 < line['grad_norm'] < 100


def test_a_run_killed_at_random_moments_ends_bitwise_the_same(place, undisturbed):
  rng = random.Random(time.time())  # the promise holds for every moment
  line, env = command('train', '--config=tiny.py', '--workdir=killed')
  kills = 0
  for _ in range(40):
    process = subprocess.Popen(
      line, cwd=place, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    latest = place / 'killed' / 'metrics.jsonl'
    before = latest.read_text() if latest.exists() else ''
    # Wait until it records something new, then a moment, then kill.
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
      now = latest.read_text() if latest.exists() else ''
      if now != before:
        break
      time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.8))
    if process.poll() is not None:
      break
    process.kill()
    process.wait()
    kills += 1
    if kills == 4:
      break
  assert kills >= 1
  done = train(place, 'killed')
  assert done.returncode == 0, done.stderr
  assert_same_runs(undisturbed, place / 'killed')


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_names_the_command_that_continues(
  place, undisturbed, number
):
  workdir = place / f'signal{number}'
  line, env = command('train', '--config=tiny.py', f'--workdir={workdir.name}')
  process = subprocess.Popen(
    line,
    cwd=place,
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  while not (workdir / 'metrics.jsonl').exists() or not metrics_of(workdir):
    assert process.poll() is None
    time.sleep(0.01)
  process.send_signal(number)
  output, _ = process.communicate(timeout=120)
  if process.returncode != 0:  # 0: it was done before the signal came
    assert process.returncode == 128 + number, output
    assert '--workdir=' + workdir.name in output.split('to continue:')[1]
  assert train(place, workdir.name).returncode == 0
  assert_same_runs(undisturbed, workdir)


def test_four_devices_equal_one_and_take_over_its_run(place, undisturbed):
  done = train(place, 'four', '--config.steps=30', devices=4)
  assert done.returncode == 0, done.stderr
  assert train(place, 'four', devices=1).returncode == 0
  ours, theirs = (
    {line['step']: line['loss'] for line in metrics_of(run) if 'loss' in line}
    for run in (place / 'four', undisturbed)
  )
  assert list(ours) == list(theirs)
  # Up to the end of the warm-up the schedule does not depend on steps. Adam amplifies
  # rounding.
  for at in (2, 4):
    assert ours[at] == pytest.approx(theirs[at], rel=1e-4)


def test_the_same_command_again_says_that_it_is_finished(place, undisturbed):
  before = (undisturbed / 'metrics.jsonl').read_bytes()
  done = train_here(place, 'undisturbed')
  assert done.returncode == 0 and 'finished: 60 updates are done' in done.stdout
  assert (undisturbed / 'metrics.jsonl').read_bytes() == before


def test_another_run_is_refused_with_the_differing_fields(place, undisturbed):
  before = (undisturbed / 'run.json').read_bytes()
  overrides = '--config.optim.lr=0.5', '--config.log_every=3'
  done = train_here(place, 'undisturbed', *overrides)
  assert done.returncode != 0
  assert 'optim.lr: 0.01 there, 0.5 now' in done.stderr
  assert 'log_every' not in done.stderr and 'Traceback' not in done.stderr
  assert (undisturbed / 'run.json').read_bytes() == before


def test_checkpoints_of_an_unknown_run_are_refused(undisturbed, tmp_path):
  (tmp_path / 'run/checkpoints/10').mkdir(parents=True)
  with pytest.raises(UserError, match='has checkpoints but no run.json'):
    train_run(read_run(undisturbed), tmp_path / 'run')
  assert {path.name for path in (tmp_path / 'run').iterdir()} == {
    'checkpoints',
    '.lock',
  }


def test_init_from_starts_with_the_weights_and_tokenizer_of_another_run(
  place, undisturbed
):
  done = train(place, 'tuned', '--config.init_from=undisturbed', '--config.steps=5')
  assert done.returncode == 0, done.stderr
  scratch = metrics_of(undisturbed)[0]['loss']
  assert metrics_of(place / 'tuned')[0]['loss'] < scratch
  # From now on the workdir is complete: it needs the other one no more.
  (place / 'undisturbed').rename(place / 'gone')
  try:
    done = launch(place, 'eval', '--workdir=tuned')
  finally:
    (place / 'gone').rename(place / 'undisturbed')
  assert done.returncode == 0, done.stderr
  crossed = evaluate.held_out_metrics(place / 'undisturbed', held_out=place / 'tuned')
  own = evaluate.held_out_metrics(place / 'undisturbed')
  assert crossed == own  # the same text, in tokens of their own
  other = shutil.copytree(place / 'tuned', place / 'other', dirs_exist_ok=True)
  (other / 'tokenizer' / 'extra').write_text('of another make')
  with pytest.raises(UserError, match='held_out=.*tuned has another tokenizer than'):
    evaluate.held_out_metrics(other, held_out=place / 'tuned')
  overrides = '--config.init_from=undisturbed', '--config.model.D=32'
  done = train_here(place, 'tuned2', *overrides)
  assert 'model.D: 16 there, 32 here' in done.stderr


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config.optim.lrr=1'], 'Did you mean optim.lr'),
    (['--config.model.D=17'], 'model.D=17 must be a multiple of model.N=2'),
    (['--prompt=a'], '--prompt is no flag of `train`: it belongs to `sample`'),
    (['--config.steps=1.5'], '--config.steps=1.5 must be an integer'),
    (['--config.data.source=nothing*'], 'nothing'),
    (['--config.model.T=5000'], 'fewer than one context of model.T=5000'),
    (['--profile=5:2'], '--profile=5:2 must be START:STOP'),
    (['--config.devices=9'], '9 devices are asked for but there are 8 '),
    (['--distributed=here'], "must be 'auto' or ADDRESS:PORT,PROCESSES,INDEX"),
    (['--config.layout=rows'], "layout='rows' must be a product of data, fsdp"),
  ],
)
def test_bad_input_is_a_message_not_a_traceback(place, arguments, message):
  done = train_here(place, 'bad', *arguments)
  assert done.returncode != 0
  assert message in done.stderr and 'Traceback' not in done.stderr
  assert not (place / 'bad' / 'run.json').exists()
  assert not (place / 'bad' / 'checkpoints').exists()
  shutil.rmtree(place / 'bad', ignore_errors=True)


def test_a_batch_that_does_not_divide_over_devices_is_refused(place):
  done = train_here(place, 'bad', '--config.batch=6', '--config.devices=4')
  assert 'use 4 or 8' in done.stderr and 'Traceback' not in done.stderr


def test_an_altered_token_file_is_refused(place, undisturbed):
  workdir = place / 'altered'
  shutil.copytree(undisturbed, workdir)
  path = workdir / 'tokens' / 'train.bin'
  content = path.read_bytes()
  path.write_bytes(content[:-2])
  assert 'train.bin' in train_here(place, 'altered').stderr
  path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
  done = train_here(place, 'altered')
  assert 'train.bin' in done.stderr and 'Traceback' not in done.stderr


def test_a_full_disk_during_a_save_keeps_the_last_checkpoint(place):
  # A checkpoint of half a megabyte has no room in any split, and run.json has.
  wide = '--config.model.D=64'
  assert train(place, 'full', wide, '--config.steps=10').returncode == 0
  before = state_of(place / 'full')

  def little_room():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

  done = train(place, 'full', wide, preexec_fn=little_room)
  assert done.returncode == 1
  # TensorStore's threads may print tracebacks of their own around our message, even
  # before it on its line; we print none.
  assert 'launch.py' not in done.stderr, done.stderr
  found = re.findall(r'error: a checkpoint could not be written to .*', done.stderr)
  assert len(found) == 1, done.stderr
  (message,) = found
  assert 'run the same command again: it continues there.' in message
  assert 'The last good one is' in message and '/full/checkpoints/10.' in message
  jax.tree.map(np.testing.assert_array_equal, state_of(place / 'full'), before)
  assert train(place, 'full', wide).returncode == 0  # with room again, it goes on


def test_eval_sample_and_plot_need_only_the_workdir(place, undisturbed):
  done = launch(place, 'eval', '--workdir=undisturbed', '--baselines')
  assert done.returncode == 0, done.stderr
  for part in ('nats/token', 'this GPT', '5-gram', 'xz -9'):
    assert part in done.stdout
  (kept,) = read_held_out(place / 'undisturbed')
  assert f'{kept["valid_nll"]:.4f} nats/token' in done.stdout
  assert f'{kept["baselines"]["xz -9 (held-out text alone)"]:.4f}' in done.stdout
  done = scripts.launch(place, 'report', '--workdir=undisturbed', '--target=report')
  assert done.returncode == 0, done.stderr
  report = (place / 'report/run.md').read_text()
  assert f'| all of it | {kept["step"]} | {kept["valid_nll"]:.4f} |' in report
  (place / 'prompts').write_text('the cat\nthe dog\n')
  sample = ['sample', '--workdir=undisturbed', '--max_new_tokens=9', '--temperature=0']
  done = scripts.launch(place, *sample, '--prompts_file=prompts', '--num_return=2')
  texts = [t.split('\n', 1)[1] for t in done.stdout.split('--- ')[1:]]
  assert len(texts) == 4 and texts[0] == texts[1] and texts[2].startswith('the dog')
  streamed = scripts.launch(place, *sample, '--prompt=the cat', '--stream')
  assert streamed.stdout.strip() == texts[0].strip()
  done = scripts.launch(place, 'plot', '--workdir=undisturbed', '--target=curve.png')
  assert done.returncode == 0, done.stderr
  assert (place / 'curve.png').read_bytes()[:4] == b'\x89PNG'


@pytest.fixture(scope='module')
def model(undisturbed):
  return gpt_jax.load(undisturbed)


def test_a_score_is_the_sum_of_the_logits_log_probabilities(model):
  context, continuation = 'the cat', ' sees'
  ids = model.tokenizer.encode(context + continuation)
  logp = jax.nn.log_softmax(model.logits(ids[:-1]))
  n = len(model.tokenizer.encode(continuation))
  wanted = [float(logp[-n + i, ids[-n + i]]) for i in range(n)]
  found = model.score(context, continuation)
  np.testing.assert_allclose(found.token_logp, wanted, atol=1e-4)
  assert found.logp == pytest.approx(sum(wanted), abs=1e-4)


def test_generated_tokens_carry_their_log_probability(model):
  made = model.generate(['the', 'a dog'], max_new_tokens=6, seed=3, num_return=2)
  assert len(made) == 4
  for row in made:
    assert model.tokenizer.decode(row.ids) == row.text
    logp = jax.nn.log_softmax(model.logits(row.prompt + row.ids[:-1]))
    start = len(row.prompt) - 1
    wanted = [float(logp[start + i, token]) for i, token in enumerate(row.ids)]
    np.testing.assert_allclose(row.token_logp, wanted, atol=1e-4)
    assert row.perplexity == pytest.approx(np.exp(-np.mean(wanted)), rel=1e-3)


def test_the_loaded_model_refuses_what_does_not_fit(model, place):
  with pytest.raises(UserError, match='a prompt of 20 tokens does not fit'):
    model.generate('a' * 20)
  with pytest.raises(UserError, match='17 ids do not fit'):
    model.logits([0] * 17)
  with pytest.raises(UserError, match='max_new_tokens=0'):
    model.generate('a', max_new_tokens=0)
  with pytest.raises(UserError, match='has no checkpoint'):
    gpt_jax.load(place / 'undisturbed', 999)
  with pytest.raises(UserError, match='no workdir'):
    gpt_jax.load(place)


def test_the_best_checkpoint_is_that_of_the_lowest_held_out_loss(place, tmp_path):
  run = config.Run(steps=6, batch=4, eval_every=2, sample_tokens=0, devices=1)
  run.data = config.Data(str(place / 'text'), tokenizer='chars', holdout=0.2)
  run.model = config.Model(L=1, D=16, N=2, T=16)
  run.optim = config.Optim(lr=1.0, warmup=0, schedule='constant')
  train_run(run, tmp_path / 'run', report=lambda text: None)
  held = [line for line in metrics_of(tmp_path / 'run') if 'valid_nll' in line]
  lowest = min(held, key=lambda line: line['valid_nll'])
  assert len(held) == 3 and lowest != held[-1]  # the rate is far too high
  assert gpt_jax.load(tmp_path / 'run').step == lowest['step']
  assert gpt_jax.load(tmp_path / 'run', 'latest').step == 6
