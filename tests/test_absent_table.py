"""The table of programs for absent devices, of texts that are there."""

import gzip
import json

import pytest
from test_roofline import PROGRAM

from benchmarks import absent, on_beside
from gpt_jax.config import papers
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.runs import cost
from gpt_jax.training import sharding

ROW = {'name': 'tiny', 'device': 'h100', 'what': 'update'}


@pytest.fixture
def kept(tmp_path, monkeypatch):
  monkeypatch.setattr(absent, 'KEPT', tmp_path)
  facts = {'tokens': 1000, 'devices': 1, 'arguments': 2**30, 'working': 2**30}

  def keep(key, text=PROGRAM, **changed):
    (tmp_path / f'{key}.json').write_text(json.dumps(facts | changed))
    with gzip.open(tmp_path / f'{key}.txt.gz', 'wt') as file:
      file.write(text)
    return absent.counted(ROW, key)

  return keep


def test_a_row_says_before_and_after(kept):
  old = kept('a')
  new = kept('b', PROGRAM.replace('"n":"3"', '"n":"1"'), working=0)
  line = absent.page([(ROW, old, new)], 'abc').splitlines()[-1]
  cells = [cell.strip() for cell in line.split('|')]
  assert cells[1:11] == [
    'update of tiny', 'h100', '4 → 2', '0.4 → 0.2', '0.4 → 0.1', '0.00', '2.0 → 1.0',
    '0.6 → 0.2', '0.0', '0.0',
  ]  # fmt: skip
  # A product takes 0.1852 ms, the negation 0.0236, a launch 0.002.
  most = [float(cell.replace(',', '')) for cell in cells[11].split(' → ')]
  assert most == pytest.approx([1000 / 0.5872e-3, 1000 / 0.2128e-3], rel=1e-3)
  assert cells[12] == '19% of memory → 24% of memory'


def test_what_can_not_be_true_or_does_not_fit_is_said(kept):
  flops = 3 * 2 * 4096**3
  assert kept('a', formula={'MLP': flops / 1000}).wrong == ''
  assert '50.0% are not counted' in kept('b', formula={'MLP': flops / 500}).wrong
  assert kept('c', working=80e9).wrong == 'does not fit'
  assert kept('d', too_large=['20G', '15.75G']).wrong == 'does not fit: 20G of 15.75G'
  assert 'not known' in kept('e', PROGRAM.replace(' dot(', ' fft(')).wrong
  nothing = absent.counted(ROW, 'not compiled yet')
  assert nothing.of is None and nothing.wrong == 'not compiled yet'


def test_a_program_is_asked_for_once(tmp_path, monkeypatch):
  monkeypatch.setattr(absent, 'KEPT', tmp_path)
  assert absent.compiled(ROW, tmp_path, '', 'code') == 'not compiled yet'
  asked = []

  class Done:
    returncode, stdout, stderr = 0, 'said before\nkey1\n', ''

  def run(command, **how):
    asked.append(command)
    return Done

  monkeypatch.setattr(absent.subprocess, 'run', run)
  for _ in range(2):
    assert absent.compiled(ROW, tmp_path, 'python', 'code') == 'key1'
  assert len(asked) == 1
  absent.compiled(ROW, tmp_path, 'python', 'other code')
  absent.compiled(ROW | {'rows': 2}, tmp_path, 'python', 'code')
  assert len(asked) == 3
  Done.returncode, Done.stderr = 1, 'line\nValueError: no\n'
  for _ in range(2):  # what went wrong may go well another time
    said = absent.compiled(ROW, tmp_path, 'python', 'a third')
    assert said == 'not compiled: ValueError: no'
  assert len(asked) == 5


@pytest.mark.parametrize('layout', on_beside.LAYOUTS)
@pytest.mark.parametrize('name', on_beside.UPDATES)
def test_a_state_counted_by_hand_is_that_of_the_layout(name, layout):
  fields, rows, chunk = on_beside.UPDATES[name]
  run = on_beside.run_of(fields, layout, rows, chunk)
  cfg = GPTConfig.of(run.model, papers.GPT2_VOCAB)
  over = sharding.Layout.imagined(run, 8)
  state, hand = cost.state_bytes(run, cfg, over), on_beside.by_hand(cfg, layout, rows)
  assert hand['parameters'] == state['parameters']
  assert hand['optimizer'] == state['optimizer'] - 8  # two counters of updates


def test_the_page_beside_other_sources_is_that_of_its_file():
  kept = json.loads(on_beside.KEPT.read_text())
  assert on_beside.PAGE.read_text(encoding='utf-8') == on_beside.page(kept)
  models = {f'{of.name}, {of.on}, {of.layout}' for of in on_beside.MAXTEXT}
  updates = {f'{n}, {lay}' for n in on_beside.UPDATES for lay in on_beside.LAYOUTS}
  assert updates <= kept.keys() <= models | updates
