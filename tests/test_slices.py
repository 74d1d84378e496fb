"""Eight real processes on this machine, as the hosts of two slices of four.

They talk over gloo on loopback. One update after another they equal one device, and a
checkpoint goes on in another number of processes. `make layouts` takes more layouts.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys

import host_updates
import numpy as np
import pytest

# Sums over devices in another order, in two updates of AdamW and four.
SAME = {'rtol': 1e-4, 'atol': 1e-5}
WORKER = pathlib.Path(host_updates.__file__)
# Processes, devices of each, and layout: of the first two updates, and of two more.
CASES = [((8, 1, 'data=2,fsdp=4'), (2, 4, 'fsdp'))]
if os.environ.get('GPT_JAX_ALL_LAYOUTS'):
  CASES += [
    ((8, 1, 'data'), (8, 1, 'data=2,fsdp=4')),
    ((8, 1, 'fsdp'), (4, 2, 'data=2,fsdp=2,tensor=2')),
    ((8, 1, 'data=2,fsdp=2,tensor=2'), (1, 8, 'data=4,tensor=2')),
    ((2, 4, 'data=2,tensor=4'), (8, 1, 'fsdp=2,tensor=4')),
    ((1, 4, 'fsdp'), (8, 1, 'data=4,fsdp=2')),
  ]


def launch(processes, devices, layout, until, folder):
  """Runs the processes to their end, and returns what each saw."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count={devices}'
  env = os.environ | {'XLA_FLAGS': flags, 'PYTHONPATH': str(WORKER.parent.parent)}
  begun = []
  for index in range(processes):
    place = f'{address},{processes},{index}'
    command = [sys.executable, WORKER, place, layout, str(until), folder]
    with open(folder / f'{until}_{index}.log', 'w') as log:
      begun.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
  try:
    codes = [process.wait(timeout=240) for process in begun]
  finally:
    for process in begun:
      process.kill()
  logs = [(folder / f'{until}_{index}.log').read_text() for index in range(processes)]
  assert codes == [0] * processes, '\n'.join(logs)
  return [
    json.loads((folder / f'saw_{until}_{index}.json').read_text())
    for index in range(processes)
  ]


@pytest.fixture(scope='module')
def one_device(tmp_path_factory):
  """The losses of four updates on one device, and where its parameters are."""
  folder = tmp_path_factory.mktemp('one')
  run = host_updates.run_of('')
  run.devices = 1
  saw = [host_updates.trained(run, until, folder) for until in (2, 4)]
  return saw[0]['losses'] + saw[1]['losses'], folder


def params(folder, until):
  return np.load(folder / f'params_{until}.npz')


@pytest.mark.parametrize(
  ('first', 'second'), CASES, ids=lambda case: '-'.join(map(str, case))
)
def test_processes_equal_one_device_and_others_go_on(
  one_device, tmp_path, first, second
):
  losses, wanted = one_device
  for until, case in ((2, first), (4, second)):
    processes, devices, layout = case
    saw = launch(*case, until, tmp_path)
    assert [each['begun'] for each in saw] == [until - 2] * processes
    for each in saw:  # all of them know the loss of the whole batch
      np.testing.assert_allclose(each['losses'], losses[until - 2 : until], **SAME)
    found = params(tmp_path, until)
    assert found.files == params(wanted, until).files
    for name in found.files:
      np.testing.assert_allclose(found[name], params(wanted, until)[name], **SAME)
    read = {row for each in saw for row in each['rows']}
    assert read == set(range(host_updates.ROWS))
    if layout == 'data=2,fsdp=4':  # parameters are gathered within a slice alone
      assert saw[0]['groups'] == [[0, 1, 2, 3], [4, 5, 6, 7]]
      assert [len(each['rows']) for each in saw] == [2] * 8
      assert max(each['held'] for each in saw) < 0.3 * saw[0]['whole']
