"""The commands of README.md and some pages are commands: parsed, and checked."""

import math
import pathlib
import re
import shlex
import sys

import pytest

import launch
from gpt_jax import config
from gpt_jax.cli import VERBS
from gpt_jax.config import experiment, papers
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.training import sharding

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = 'README.md', 'docs/scaling.md', 'docs/dialogue.md'
# How many devices the commands under a heading of docs/scaling.md are for.
DEVICES = {
  'One GPU or TPU chip': 1,
  'Eight GPUs of one machine': 8,
  'Two hosts': 16,
  'A TPU pod': 32,
  'By simulated devices': 8,
}


def commands() -> list[tuple[str, str, int]]:
  """Returns the page, the command line and the devices of each command."""
  found = []
  for page in PAGES:
    text = (ROOT / page).read_text(encoding='utf-8')
    for block in re.finditer(r'^```\w*\n(.*?)^```', text, re.MULTILINE | re.DOTALL):
      above = text[: block.start()]
      headings = re.findall(r'^\*\*([\w -]+)', above, re.MULTILINE)
      number = DEVICES[headings[-1].strip()] if page == PAGES[1] and headings else 1
      whole = block[1].replace('\\\n', ' ')
      for line in re.findall(r'python launch\.py (.*)', whole):
        found.append((page, line.rstrip('"'), number))
    plain = ' '.join(re.sub(r'(?ms)^```.*?^```', '', text).split())
    # Without flags it is a verb that the page speaks of.
    for line in re.findall(r'`python launch\.py (\w+ --[^`]+)`', plain):
      found.append((page, line.replace('=...', '=SOME'), 1))
  return found


COMMANDS = commands()


def test_all_commands_are_read_and_none_has_a_gap():
  lines = [line for _, line, _ in COMMANDS]
  assert len(lines) > 35 and {line.split()[0] for line in lines} <= VERBS.keys()
  assert not [line for line in lines if '...' in line]


@pytest.mark.parametrize('page, line, number', COMMANDS)
def test_a_command_runs_as_it_is_written(page, line, number, monkeypatch):
  monkeypatch.chdir(ROOT)
  verb, *arguments = shlex.split(line, comments=True)
  monkeypatch.setattr(sys, 'argv', ['launch.py', verb, *arguments])
  values = launch._parse(verb, arguments)
  if 'config' not in values:
    return
  run = values.config
  if 'on' in values and values.on:
    number = math.prod(map(int, re.findall(r'\d+', values.on.partition(':')[2])))
  if run.is_finetuning or run.take_shape:
    return  # its shape is that of a model to be fetched
  layout = sharding.Layout.imagined(run, sharding.asked_devices(run) or number)
  config.check(run, layout.parts)
  layout.check(GPTConfig.of(run.model, 512))


@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('size', papers.GPT2_SIZES)
def test_gpt2_as_it_ships_divides_over_one_gpu_and_eight(size, devices):
  run = experiment.load(f'{ROOT}/experiments/gpt2/pretrain.py:{size}')
  run.data.source = 'text.txt'
  config.check(run, devices)
