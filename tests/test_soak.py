"""A short form of benchmarks/soak.py, and its verdicts on made-up runs."""

import concurrent.futures
import multiprocessing
import pathlib

import pytest

from benchmarks import soak

KEEP = 2
LOOKS = [
  soak.Look(
    step=200 * i,
    seconds=0.5 * i,
    cpu=0.6 * i,
    others=0.1 * i,
    memory=400 * 2**20,
    arrays=105,
    descriptors=12,
    threads=34,
    files=11,
    checkpoints=3,
    line=1e-4,
  )
  for i in range(1, 41)
]


def not_flat(looks: list[soak.Look]) -> list[str]:
  return [row.name for row in soak.checks(looks, KEEP) if not row.flat]


def short_run(folder: pathlib.Path) -> list[soak.Look]:
  """Returns what was seen of 400 updates, a checkpoint every 20."""
  run = soak.tiny(folder, steps=400, eval_every=20)
  assert run.keep == KEEP
  return soak.soak(run, folder / 'run')


def test_a_short_run_leaves_nothing_open(tmp_path):
  # In a process of its own: the pools of other tests start threads when they please.
  spawn = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as process:
    looks = process.submit(short_run, tmp_path).result()
  assert [look.step for look in looks] == list(range(20, 401, 20))
  rows = {row.name: row for row in soak.checks(looks, KEEP)}
  for name in (
    'descriptors',
    'threads',
    'live arrays of jax',
    'files beside checkpoints',
    'checkpoints',
  ):
    assert rows[name].flat, rows[name]


def test_a_flat_run_passes():
  assert not_flat(LOOKS) == []


@pytest.mark.parametrize(
  'change, name',
  [
    (lambda i: {'memory': (400 + i // 3) * 2**20}, 'resident memory'),
    (lambda i: {'arrays': 105 + i}, 'live arrays'),
    (lambda i: {'descriptors': 12 + i}, 'descriptors'),
    (lambda i: {'threads': 34 + i // 8}, 'threads'),
    (lambda i: {'files': 11 + i}, 'files'),
    (lambda i: {'checkpoints': i}, 'checkpoints'),
    (lambda i: {'line': 1e-4 * (1 + i / 100)}, 'a line'),
    (lambda i: {'seconds': 0.5 * i + 0.001 * i * i}, 'updates/s'),
  ],
)
def test_what_grows_or_slows_is_named(change, name):
  changed = [look._replace(**change(i)) for i, look in enumerate(LOOKS)]
  (wrong,) = not_flat(changed)
  assert wrong.startswith(name)


@pytest.mark.parametrize(
  'at, change',
  [
    (0, {'memory': 500 * 2**20}),  # compilation
    (38, {'descriptors': 14}),  # opened and closed in the background
    (38, {'seconds': LOOKS[38].seconds + 0.4}),  # other work on the machine
  ],
)
def test_what_passes_by_is_no_leak(at, change):
  changed = list(LOOKS)
  changed[at] = changed[at]._replace(**change)
  assert not_flat(changed) == []


def test_threads_of_a_pool_that_fills_are_no_leak():
  assert (
    not_flat([look._replace(threads=min(34, 24 + look.step // 200)) for look in LOOKS])
    == []
  )


def test_the_figure_has_memory_counts_and_speed():
  memory, counts, speed = soak.figure(LOOKS).axes
  assert list(memory.lines[0].get_ydata()) == [400] * 40
  assert [line.get_label() for line in counts.lines] == [
    'descriptors',
    'threads',
    'files',
    'checkpoints',
  ]
  assert speed.lines[0].get_ydata() == pytest.approx([400] * 39)
