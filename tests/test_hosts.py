"""Two real processes on this machine, as two hosts: one run with one process of four.

They talk over gloo on loopback, each with two simulated devices.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Sums over devices in another order, amplified by a hundred updates of AdamW.
SAME = {'rtol': 1e-4, 'atol': 0}


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  folder = tmp_path_factory.mktemp('hosts')
  text = ' '.join(str(n * n) for n in range(4000))
  (folder / 'text.txt').write_text(text)
  return folder


def launch(place, name, *flags, devices):
  """Begins a process that trains in `name`; its output goes to a file."""
  arguments = (
    f'train --config={ROOT}/experiments/quickstart.py --workdir={name} '
    '--config.data.source=text.txt --config.data.tokenizer=bytes '
    '--config.data.tokens=tokens --config.steps=120 --config.eval_every=20 '
    '--config.log_every=2 --config.optim.warmup=5 --config.batch=8 '
    '--config.eval_batch=4 --config.eval_tokens=500 --config.sample_tokens=4 '
    '--config.model.L=1 --config.model.D=16 --config.model.N=2 --config.model.T=16'
  ).split()
  flag = f'--xla_force_host_platform_device_count={devices}'
  env = os.environ | {
    'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {flag}',  # the last one counts
    'PYTHONUNBUFFERED': '1',
  }
  with open(place / f'{name}.log', 'a') as log:
    return subprocess.Popen(
      [sys.executable, ROOT / 'launch.py', *arguments, *flags],
      cwd=place,
      env=env,
      stdout=log,
      stderr=log,
    )


def launch_two(place, name):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  return [
    launch(place, name, f'--distributed={address},2,{index}', devices=2)
    for index in range(2)
  ]


def lines(place, name):
  path = place / name / 'metrics.jsonl'
  text = path.read_text() if path.exists() else ''
  return [json.loads(line) for line in text.split('\n')[:-1]]


def wait_for(place, name, processes, step):
  """Returns when `step` updates are recorded; fails if a process ends before."""
  until = time.monotonic() + 240
  while not any(line['step'] >= step for line in lines(place, name)):
    ended = [p for p in processes if p.poll() is not None]
    log = (place / f'{name}.log').read_text()
    assert not ended and time.monotonic() < until, log
    time.sleep(0.01)


def kill(processes, number=signal.SIGKILL):
  for process in processes:
    process.send_signal(number)
  return [process.wait(timeout=240) for process in processes]


def test_two_processes_and_one_go_on_with_the_same_run(place):
  undisturbed = launch(place, 'one', devices=4)
  assert undisturbed.wait(timeout=240) == 0, (place / 'one.log').read_text()
  wanted = lines(place, 'one')

  two = launch_two(place, 'moved')
  wait_for(place, 'moved', two, 26)
  assert kill(two) == [-signal.SIGKILL] * 2
  one = launch(place, 'moved', devices=4)
  wait_for(place, 'moved', [one], 46)
  assert kill([one]) == [-signal.SIGKILL]
  two = launch_two(place, 'moved')
  # Asked to stop, one process tells the other; both save, and the same command goes on.
  wait_for(place, 'moved', two, 70)
  two[1].send_signal(signal.SIGTERM)
  assert [p.wait(timeout=240) for p in two] == [128 + signal.SIGTERM] * 2
  two = launch_two(place, 'moved')
  log = place / 'moved.log'
  assert [p.wait(timeout=240) for p in two] == [0, 0], log.read_text()

  assert log.read_text().count('going on from the checkpoint of update') == 3
  found = lines(place, 'moved')
  assert [line['step'] for line in found] == [line['step'] for line in wanted]
  for name in ('loss', 'valid_nll'):
    np.testing.assert_allclose(
      [line[name] for line in found if name in line],
      [line[name] for line in wanted if name in line],
      **SAME,
    )
  assert found[-1]['valid_nll'] < 0.9 * found[0]['loss']
