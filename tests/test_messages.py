"""What a user can mend in configs, flags and scripts is one line, no traceback."""

import errno
import json
import pathlib
import re
import subprocess
import sys
import threading

import pytest
import scripts

import launch
from gpt_jax import config
from gpt_jax.cli import messages
from gpt_jax.config import UserError, experiment
from gpt_jax.sweep import plan

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEAD = 'from gpt_jax import config\n'


@pytest.fixture
def here(tmp_path, monkeypatch):
  """A folder to be in, with an experiment ok.py."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'ok.py').write_text(f'{HEAD}def get_config():\n  return config.Run()\n')
  return tmp_path


def said(*arguments):
  """Returns the one line of an error that a command ends with."""
  done = scripts.launch(pathlib.Path.cwd(), *arguments)
  assert done.returncode == 1, done.stdout
  line, empty = done.stderr.rsplit('\n', 1)
  assert '\n' not in line and not empty, done.stderr
  return line


@pytest.mark.parametrize(
  ('code', 'message'),
  [
    (
      f'{HEAD}def get_config():\n  return config.Run(stepz=3)\n',
      "bad.py, line 3: TypeError: .* argument 'stepz'. Did you mean steps",
    ),
    (f'{HEAD}\ndef get_config(:\n', 'bad.py, line 3: SyntaxError: '),
    ('import not_there\n', "bad.py, line 1: ModuleNotFoundError: .*'not_there'"),
    (
      'def get_config():\n  number = 1\n  return number / 0\n',
      'bad.py, line 3: ZeroDivisionError: division by zero',
    ),
    ('raise OSError(28, "two\\nlines")', r'bad.py, line 1: OSError: .*two lines$'),
    ('x = 1\n', r'bad.py has no get_config\(\)'),
    (
      'def get_config():\n  return {}\n',
      r'get_config\(\) returned dict, not config.Run',
    ),
    (
      'def get_config(size):\n  pass\n',
      'needs a variant; write --config=bad.py:VARIANT',
    ),
    (
      f'{HEAD}def get_config():\n  r = config.Run()\n  r.optim.lrr = 1\n  return r\n',
      'there is no optim.lrr, which is set to 1. Did you mean lr',
    ),
  ],
)
def test_what_is_wrong_in_an_experiment_is_said_with_its_line(here, code, message):
  (here / 'bad.py').write_text(code)
  assert re.search(message, said('describe', '--config=bad.py'))


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('okk.py', 'okk.py is not there. Did you mean ok.py'),
    ('.', '. is a folder, not a Python file'),
    ('', '--config= names no file'),
    ('ok.py:big', r'ok.py: get_config\(\) takes no variant; write --config=ok.py'),
    ('gs://b/ok.py', '--config=gs://b/ok.py must be a path of this machine'),
    (f'{ROOT}/experiments/gpt2/pretrain.py:125M', "^error: size '125M' must be one of"),
  ],
)
def test_an_experiment_that_is_not_there_is_said(here, name, message):
  assert re.search(message, said('describe', f'--config={name}'))


def test_an_experiment_may_define_classes_that_look_themselves_up(here):
  (here / 'own.py').write_text(
    f'{HEAD}import dataclasses\n@dataclasses.dataclass\nclass A:\n  x: "int" = 7\n'
    'def get_config(name="b"):\n  return config.Run(steps=A().x, prompts=(name,))\n'
  )
  assert experiment.load('own.py') == config.Run(steps=7, prompts=('b',))
  assert experiment.load('own.py:c').prompts == ('c',)


def test_a_sweep_file_is_blamed_with_its_line(here):
  (here / 'sweep.py').write_text('from gpt_jax.sweep import *\n\nRUNS = grid(3)\n')
  with pytest.raises(UserError, match=r'^sweep.py, line 3: \w+Error: '):
    plan.read('sweep.py')


def test_paths_in_a_sweep_file_are_checked(here):
  with pytest.raises(UserError, match='^data.source=gs://b/x must be a path'):
    plan.planned(
      [{'data.source': 'gs://b/x'}],
      base=config.Run(),
      given={},
      config_file='ok.py',
      sweep_file='sweep.py',
      folder='sweep',
    )


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--lr=1'], '--lr is no flag of `describe`: .* is set by --config.optim.lr$'),
    (['--dropout=0'], 'by --config.model.dropout or --config.task.dropout$'),
    (['--optim.lr=1'], 'is set by --config.optim.lr$'),
    (['--model.DD=1'], 'Did you mean config.model.D'),
    (['--workdir=x'], 'it belongs to `prepare`, `train`'),
    (['--config.stepz=1'], 'there is no --config.stepz. Did you mean steps'),
    (
      ['--config.model=1'],
      'model is a section; set its fields, such as --config.model',
    ),
    (['--config.steps=1.5'], '--config.steps=1.5 must be an integer$'),
    (['--config.steps=1e400'], '--config.steps=1e400 must be an integer$'),
    (['--config.steps=many'], '--config.steps=many must be an integer$'),
    (['--config.model.tied=no'], '--config.model.tied=no must be true or false$'),
    (['--config.optim.lr=fast'], '--config.optim.lr=fast must be a number$'),
    (['--config.optim.lr=nan'], 'optim.lr=nan must be a number$'),
    (['--config.seed=4294967296'], r'seed=4294967296 must be in \[0, 4294967296\)$'),
    (['--devices=a: b'], '--devices=a: b must be an integer$'),
    (['--config.data.tokens=s3://b/t'], 'data.tokens=s3://b/t must be a path of this'),
    (['--config.init_from=~nobody9/x'], "there is no user 'nobody9'"),
  ],
)
def test_a_wrong_argument_is_said_in_our_words(here, arguments, message):
  assert re.search(message, said('describe', '--config=ok.py', *arguments))


def test_a_missing_flag_is_said_with_what_it_is():
  assert said('describe') == (
    'error: --config is missing: experiment file, with an argument for its get_config '
    'after a colon; --config.FIELD=VALUE sets a field'
  )
  assert said('eval') == 'error: --workdir is missing: folder of the run'


def test_a_field_is_no_flag_of_a_verb_without_a_config():
  assert 'it belongs to `prepare`, `train`' in said('eval', '--config.steps=1')
  assert said('eval', '--zzz=1').endswith('is no flag of `eval`: it is unknown')


def test_a_whole_number_may_be_written_with_an_exponent(here, monkeypatch):
  arguments = ['--config=ok.py', '--config.steps=2e4', '--config.optim.warmup=0x10']
  monkeypatch.setattr(sys, 'argv', ['launch.py', 'describe', *arguments])
  run = launch._parse('describe', arguments).config
  assert (run.steps, run.optim.warmup) == (20_000, 16) and type(run.steps) is int


@pytest.mark.parametrize('flag', ['-h', '-help', '--help'])
def test_help_has_three_names(here, flag):
  done = scripts.launch(here, 'train', flag)
  assert done.returncode == 0 and '--workdir: folder of the run' in done.stdout


def test_the_version_names_the_code_and_what_computes(here):
  done = scripts.launch(here, '--version')
  parts = r'gpt_jax [^,]+, jax \d[^,]*, jaxlib \d[^,]*, flax \d[^,]*, Python \d\S*\n'
  assert done.returncode == 0 and re.fullmatch(parts, done.stdout)


@pytest.mark.parametrize(
  ('verb', 'flag'),
  [
    ('train', 'workdir'),
    ('sample', 'workdir'),
    ('compare', 'workdir'),
    ('reproduce', 'into'),
    ('eval', 'held_out'),
    ('eval', 'data'),
    ('sample', 'prompts_file'),
    ('sample', 'template'),
    ('import', 'source'),
    ('export', 'target'),
    ('plot', 'target'),
    ('explain', 'target'),
    ('sweep', 'sweep'),
    ('tokenize', 'tokenizer'),
  ],
)
def test_every_flag_that_takes_a_path_expands_and_checks_it(verb, flag, monkeypatch):
  assert f'--{flag}=gs://b/x must be a path' in said(verb, f'--{flag}=gs://b/x')
  monkeypatch.setenv('HOME', '/home/of')
  values = launch._values(verb)
  values[flag].parse('~/x')
  assert values[flag].value in ('/home/of/x', ['/home/of/x'])


def test_a_disk_error_is_a_message_and_a_bug_a_traceback(tmp_path):
  ends = pytest.raises(SystemExit, match='^error: f: Permission denied; change the per')
  with ends, messages.shown():
    raise PermissionError(errno.EACCES, 'Permission denied', 'f')
  with pytest.raises(FileNotFoundError), messages.shown(['elsewhere']):
    (tmp_path / 'not_there').read_text()
  ends, removed = pytest.raises(SystemExit, match='or was removed'), tmp_path / 'w'
  with ends, messages.shown([str(removed)]):
    (removed / 'metrics.jsonl').write_text('')
  with pytest.raises(SystemExit, match='^interrupted$'), messages.shown():
    raise KeyboardInterrupt


def test_what_the_disk_refuses_to_a_thread_is_a_message(capfd):
  def fails():
    raise OSError(errno.ENOSPC, 'No space left on device', 'events')

  ends = pytest.raises(SystemExit, match='^error: events: No space left')
  with ends, messages.shown():
    thread = threading.Thread(target=fails)
    thread.start()
    thread.join()
  assert 'Traceback' not in capfd.readouterr().err


@pytest.fixture
def trained(here):
  """The folder `here` with a workdir w that has a loss curve."""
  (here / 'w').mkdir()
  about = {'config': config.flat(config.Run()), 'vocab': 8, 'data': {}}
  (here / 'w/run.json').write_text(json.dumps(about))
  lines = [{'step': 1, 'loss': 2.0}, {'step': 2, 'loss': 1.5}]
  (here / 'w/metrics.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in lines))
  return here


def test_a_plot_is_written_under_its_own_name(trained):
  done = scripts.launch(trained, 'plot', '--workdir=w', '--target=curve')
  assert done.returncode == 0 and done.stdout == 'wrote curve\n'
  assert (trained / 'curve').read_bytes()[:4] == b'\x89PNG'
  assert 'curve.x must end in .png' in said('plot', '--workdir=w', '--target=curve.x')


def test_a_target_whose_folder_is_not_there_is_a_message(trained):
  text = said('plot', '--workdir=w', '--target=no/curve.png')
  assert f'{trained / "no"} is not there, or was removed; put it back' in text
  assert 'a folder is where a file is needed' in said(
    'plot', '--workdir=w', '--target=w'
  )


def mains():
  found = []
  for path in sorted(
    [*ROOT.glob('experiments/**/*.py'), *ROOT.glob('benchmarks/*.py')]
  ):
    if "if __name__ == '__main__'" in path.read_text(encoding='utf-8'):
      found.append(path)
  return found


@pytest.mark.parametrize('path', mains(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_script_runs_where_messages_are_shown(path):
  end = path.read_text(encoding='utf-8').split("if __name__ == '__main__'")[1]
  assert 'run_script(main)' in end or 'with shown():' in end


@pytest.mark.parametrize(
  ('script', 'flags', 'message'),
  [
    ('ru/dialogues.py', ['--source=empty', '--target=x'], 'empty holds no dialogue'),
    (
      'gpt3/addition.py',
      ['--test=nothere', '--target=x'],
      'nothere: can not be read',
    ),
  ],
)
def test_a_script_ends_with_one_line(here, script, flags, message):
  (here / 'empty').write_text('')
  command = [sys.executable, ROOT / 'experiments' / script, *flags]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 1
  assert re.fullmatch(f'error: .*{message}.*\n', done.stderr), done.stderr


def test_the_harness_says_how_to_install_what_it_lacks():
  code = """
import runpy, sys
class Without:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] == 'lm_eval':
      raise ModuleNotFoundError(f'No module named {name!r}', name='lm_eval')
sys.meta_path.insert(0, Without())
runpy.run_module('gpt_jax.harness', run_name='__main__')
"""
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT
  )
  line = 'error: lm_eval is not installed; install it: pip install lm_eval\n'
  assert (done.returncode, done.stderr) == (1, line)


def test_a_word_that_is_no_flag_is_refused():
  assert said('eval', '--workdir=w', 'tasks') == (
    "error: 'tasks' is not a flag; write --name=value"
  )


def test_two_runs_are_compared_and_no_other_number(trained):
  for number in (1, 3):
    text = said('compare', *['--workdir=w'] * number)
    assert f'{number} --workdir cannot be compared; give two' in text


def test_a_sweep_is_reported_alone(trained):
  (trained / 'w/sweep.json').write_text('{}')
  text = said('report', '--workdir=w', '--workdir=other', '--target=report')
  assert text == 'error: --workdir=w is a sweep; report it alone'
