"""The table of experiments/README.md and the result files that it is made of."""

import dataclasses
import json
import re
import shutil
import sys

import pytest
import scripts

import launch
from gpt_jax import config
from gpt_jax.config import UserError, papers
from gpt_jax.reports import committed
from gpt_jax.reports import experiments_table as table
from gpt_jax.reports.committed import Measured
from gpt_jax.runs import workdir
from gpt_jax.tasks.labelled_table import TASKS

EXPERIMENT = '''"""A small thing.

Claim: published, 1.5 nats
in all. Source: a paper. Cost: nothing.
"""
from gpt_jax import config

def get_config(size='1'):
  optim, model = config.Optim(lr={lr}), config.Model(L=int(size))
  return config.Run(steps=2, optim=optim, model=model)
'''


@pytest.fixture
def root(tmp_path):
  folder = tmp_path / 'experiments'
  (folder / 'a').mkdir(parents=True)
  (folder / 'a/small.py').write_text(EXPERIMENT.format(lr=0.1))
  (folder / 'helper.py').write_text(
    '"""Makes a file.\n\nClaim: none. Source: none.\n"""'
  )
  gpu = '"""A large one.\n\nClaim: 2.85. Not run here: it wants\na GPU. Source: x.\n"""'
  (folder / 'large.py').write_text(gpu)
  return folder


def result_of(**fields):
  known = {
    'experiment': 'a/small.py',
    'variant': '2',
    'command': 'python launch.py train',
    'measured': [
      Measured('bits/byte', 1.23456, 1.2, 1.25),
      Measured('tokens', 12345.6),
    ],
    'cost': {'updates': 2, 'seconds': 3.0},
    'made_of': {'device': '1 x cpu: cpu', 'jax': '0.1', 'commit': 'abc'},
  }
  return committed.Result(**known | fields)


def result(root):
  return result_of(fields=table.base('a/small.py', '2', root))


def rows(text):
  return [
    [cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines()[2:]
  ]


def test_a_row_has_claim_numbers_cost_and_command_and_says_what_is_missing(root):
  small, large = rows(table.table({'x': result(root)}, root))
  assert small == [
    '`a/small.py:2`',
    'published, 1.5 nats in all',
    '**1.2346** [1.2000, 1.2500] bits/byte; **12,346** tokens',
    '2 updates; 3 seconds; 1 x cpu: cpu, jax 0.1, `abc`',
    '`python launch.py train`',
  ]
  assert large[2] == '**missing**: not run, it wants a GPU'
  missing, _ = rows(table.table({}, root))
  assert missing[2] == '**missing**: no result file'


SEVERAL = '''"""Things.

Source: a paper. The things:

  first: a thing.
    Claim: published, 1.5
      nats.
    Data: a folder.
  second: another.
    Claim: none published.
    Data: a file.
"""

def get_config(argument): ...
'''


def test_a_file_of_several_experiments_has_a_row_for_each_claim(root):
  (root / 'a/small.py').unlink()
  (root / 'a/several.py').write_text(SEVERAL)
  known = {'experiment': 'a/several.py', 'fields': {}}
  results = {
    'x': result_of(variant='second,old', **known),
    'y': result_of(variant='second', **known),
  }
  cells = [row[:2] for row in rows(table.table(results, root))][:3]
  assert cells == [
    ['`a/several.py:first`', 'published, 1.5 nats'],
    ['`a/several.py:second,old`', 'none published'],
    ['`a/several.py:second`', 'as above'],
  ]
  assert '`a/several.py:first` | published, 1.5 nats | **missing**' in table.table(
    results, root
  )


def test_every_task_is_fine_tuned_by_one_experiment():
  docstring = table.experiments(scripts.EXPERIMENTS)['gpt1/finetune.py']
  assert set(table.claims(docstring)) == set(TASKS)
  assert '91.3 (test, GLUE server) in accuracy' in table.claims(docstring)['sst2']
  get_config = scripts.opened('gpt1/finetune.py').get_config
  for task in TASKS:
    assert get_config(task) == papers.gpt1_finetuning(task)
  assert get_config('cola,layers=3') == papers.gpt1_finetuning('cola', 'layers=3')
  for wrong in ('sst', 'sst2:lora', ''):
    with pytest.raises(
      UserError, match=f"the task '{wrong}' must be one of sst2, cola"
    ):
      get_config(wrong)
  with pytest.raises(UserError, match='Did you mean sst2'):
    get_config('sst')
  with pytest.raises(UserError, match="'frozn' is no variant"):
    get_config('sst2,frozn')


def test_the_command_line_says_what_a_config_file_says(monkeypatch):
  monkeypatch.chdir(scripts.EXPERIMENTS.parent)
  of = '--config=experiments/gpt1/finetune.py:'
  values = launch._parse('train', [f'{of}mrpc,lora', '--workdir=w'])
  assert (values.config.task.name, values.config.task.train) == ('mrpc', 'lora')
  with pytest.raises(UserError) as error:
    launch._parse('train', [f'{of}sst', '--workdir=w'])
  assert str(error.value).startswith("finetune.py:sst: the task 'sst' must be one of")


def test_a_changed_config_makes_a_row_stale(root):
  old = result(root)
  assert table.stale(old, root) == []
  (root / 'a/small.py').write_text(EXPERIMENT.format(lr=0.2))
  assert table.stale(old, root) == ['optim.lr was 0.1 and is 0.2']
  row, _ = rows(table.table({'x': old}, root))
  assert row[2].startswith('**stale** (optim.lr was 0.1 and is 0.2): **1.2346**')
  # A field that the schema did not have then had what is its default now.
  fewer = {name: v for name, v in old.fields.items() if name != 'model.bias'}
  assert len(table.stale(dataclasses.replace(old, fields=fewer), root)) == 1
  renamed = dataclasses.replace(old, fields=old.fields | {'optim.old_name': 1})
  assert "optim.old_name was 1 and is 'no field any more'" in table.stale(renamed, root)
  gone = dataclasses.replace(old, variant='x')
  (why,) = table.stale(gone, root)
  assert why.startswith("get_config('x') fails: invalid literal for int()")
  (root / 'a/small.py').unlink()
  assert table.stale(old, root) == ['the experiment is gone']
  assert '`a/small.py:2` | gone | **stale**' in table.table({'x': old}, root)


def test_a_result_is_read_as_it_was_written(root, tmp_path):
  path = tmp_path / 'x.json'
  committed.write(path, result(root))
  assert committed.read(path) == result(root)
  path.write_text('{"experiment": "x"}')
  with pytest.raises(UserError, match="x.json is damaged: it lacks 'variant'"):
    committed.read(path)


def test_a_table_stands_between_its_marks():
  page = f'head\n{table.BEGIN}\nold\n{table.END}\ntail\n'
  new = table.renewed(page, '| a |\n')
  assert new == f'head\n{table.BEGIN}\n\n| a |\n\n{table.END}\ntail\n'
  assert table.renewed(new, '| a |') == new
  with pytest.raises(UserError, match='README.md lacks .*; put them back'):
    table.renewed('head', '| a |')


def test_a_command_shows_no_place_of_a_machine():
  argv = ['launch.py', 'train', '--config=experiments/x.py', '--workdir=runs/x']
  places = ['--config.data.source=/home/me/books', '/home/me/run', '--p=a b']
  assert committed.command([*argv, *places]) == (
    'python launch.py train --config=experiments/x.py --workdir=runs/x '
    "--config.data.source=PATH/books PATH/run '--p=a b'"
  )
  for word, shown in (
    (
      '--config=/home/me/experiments/finetune.py:layers=3',
      '--config=PATH/finetune.py:layers=3',
    ),
    ('--workdir=/home/me/lr=0.1', '--workdir=PATH/lr=0.1'),
    ('--config.task.data=hf:/home/me/x', '--config.task.data=hf:PATH/x'),
    ('--a=a.txt,/home/me/b.txt', '--a=a.txt,PATH/b.txt'),
    ('--a=../s/a,~/b', '--a=PATH/a,PATH/b'),
    ('--a=https://x.org/a', '--a=https://x.org/a'),
    ('--a=runs/a', '--a=runs/a'),
  ):
    assert committed.command([word]) == f'python {shown}'


def test_an_experiment_is_named_below_its_folder():
  assert committed.experiment('/a/experiments/b/experiments/c/d.py') == 'c/d.py'
  assert committed.experiment('experiments/d.py') == 'd.py'
  with pytest.raises(UserError, match='is not of experiments'):
    committed.experiment('/a/b.py')


def test_a_script_writes_its_result(tmp_path, monkeypatch):
  monkeypatch.setattr(
    sys, 'argv', ['/there/experiments/a/b.py', '--result=/tmp/x.json']
  )
  committed.of_script(
    tmp_path / 'x.json', '/there/experiments/a/b.py', [Measured('x', 1.0)]
  )
  found = committed.read(tmp_path / 'x.json')
  assert found.experiment == 'a/b.py' and found.measured == [Measured('x', 1.0)]
  assert found.command == 'python experiments/a/b.py --result=PATH/x.json'
  assert str(tmp_path) not in (tmp_path / 'x.json').read_text()


def run_of(
  folder, root, *, lr=0.1, seed=0, nll=(1.5, 1.25), steps=2, text='abc', **more
):
  """Writes a finished run of the experiment, with losses after its updates."""
  overrides = {'optim.lr': lr, 'data.source': '/a/text'}
  fields = table.base('a/small.py', '', root)
  run = config.from_flat(fields | overrides | {'seed': seed})
  folder.mkdir()
  argv = ['launch.py', 'train', f'--config={root}/a/small.py', f'--config.seed={seed}']
  session = {
    'argv': argv,
    'overrides': overrides | {'seed': seed},
    'config': config.flat(run),
    'starts': [0],
    'environment': {'git': {'commit': 'abc', 'diff': '+'}, 'devices': ['cpu: cpu']},
  }
  data = {'valid': text, 'valid_text': text * 5}
  about = {'config': config.flat(run), 'vocab': 16, 'data': data}
  about['sessions'] = [*more.get('before', []), session]
  (folder / 'run.json').write_text(json.dumps(about))
  lines = []
  for step, loss in enumerate(nll, 1):
    lines.append({'step': step, 'loss': loss, 'seconds': 2.0 * step})
    lines.append({'step': step, 'valid_nll': loss, 'valid_bpb': 2 * loss})
  kept = [line for line in lines if line['step'] <= steps]
  written = ''.join(json.dumps(line) + '\n' for line in kept)
  (folder / 'metrics.jsonl').write_text(written)
  (folder / f'checkpoints/{steps}/params').mkdir(parents=True)
  return folder


def test_a_run_is_kept_with_its_best_loss_or_that_of_all_text(root, tmp_path):
  folder = run_of(tmp_path / 'run', root, nll=(1.25, 1.5))
  name, found = table.result([folder], root)
  assert name == 'a/small' and found.experiment == 'a/small.py'
  assert found.measured == [
    Measured('bits/byte, best while training', 2.5),
    Measured('nats/token, best while training', 1.25),
  ]
  assert found.cost['seconds'] == 4 and found.cost['updates'] == 2
  assert found.made_of['commit'] == 'abc+'  # there were changes
  assert found.made_of['text'] == 'abcabcabcabc'
  assert '/a/text' not in found.fields.values() and table.stale(found, root) == []
  line = {'text': '', 'text_sha256': 'x', 'int8': False, 'step': 1, 'valid_ppl': 4.0}
  line |= {'valid_nll': 1.3, 'valid_bpb': 2.6, 'baselines': {'xz': 3.0}}
  workdir.keep_held_out(folder, line)
  assert table.result([folder], root)[1].measured == [
    Measured('bits/byte, all held-out text', 2.6),
    Measured('nats/token, all held-out text', 1.3),
    Measured('bits/byte, xz', 3.0),
  ]
  other = {'text': 'other', 'text_sha256': 'y', 'baselines': {}}
  workdir.keep_held_out(folder, line | other)
  workdir.keep_held_out(folder, line | other | {'int8': True, 'valid_ppl': 9.0})
  *_, last = table.result([folder], root)[1].measured
  assert last == Measured('perplexity on the text of other', 4.0)
  (folder / 'held_out.json').unlink()
  workdir.keep_held_out(folder, line | {'step': 2})
  with pytest.raises(
    UserError, match='evaluated at update 2, and its best is that of 1'
  ):
    table.result([folder], root)


def test_seeds_of_one_config_have_a_mean(root, tmp_path):
  folders = [run_of(tmp_path / f'{s}', root, seed=s, nll=(9, 1 + s)) for s in (0, 1, 2)]
  first, *_ = table.result(folders, root)[1].measured
  assert first.what == 'bits/byte, best while training, mean of 3 seeds'
  # Student's t with two degrees of freedom; values 2, 4 and 6.
  half = 4.302652729911275 * 2 / 3**0.5
  assert first[1:] == pytest.approx((4.0, 4.0 - half, 4.0 + half))


def test_what_is_not_the_experiment_s_is_not_kept(root, tmp_path):
  folder = run_of(tmp_path / 'a', root)
  (root / 'a/small.py').write_text(
    EXPERIMENT.replace('steps=2', 'steps=3').format(lr=0)
  )
  with pytest.raises(UserError, match='not what its experiment says now, in steps;'):
    table.result([folder], root)  # the rate is the command's
  (root / 'a/small.py').write_text(EXPERIMENT.format(lr=0.1))
  other = run_of(tmp_path / 'b', root, lr=0.3, seed=1)
  with pytest.raises(UserError, match='in optim.lr;'):
    table.result([folder, other], root)
  with pytest.raises(UserError, match='not finished'):
    table.result([run_of(tmp_path / 'c', root, steps=1)], root)
  same = [run_of(tmp_path / name, root) for name in 'de']
  with pytest.raises(UserError, match='must differ in their seed'):
    table.result(same, root)
  with pytest.raises(UserError, match='have different data'):
    table.result([same[0], run_of(tmp_path / 'f', root, seed=1, text='xyz')], root)
  shorter = {'config': {'steps': 1}, 'starts': [0], 'environment': {}, 'argv': []}
  with pytest.raises(UserError, match='was made longer'):
    table.result([run_of(tmp_path / 'g', root, before=[shorter])], root)


def test_a_fine_tuning_is_kept_with_its_seeds(root, tmp_path):
  (root / 'tune.py').write_text(
    'from gpt_jax import papers\n\n\ndef get_config():\n'
    "  return papers.gpt1_finetuning('sst2')\n"
  )
  folder = tmp_path / 'run'
  run = config.from_flat(table.base('tune.py', '', root) | {'seeds': 2})
  run.steps, run.eval_every, run.model.L = 6, 3, 2  # filled in
  flat, about = config.flat(run), {'vocab': 16, 'data': {'dev': 'd'}}
  argv = ['launch.py', 'train', f'--config={root}/tune.py']
  session = {'argv': argv, 'overrides': {'seeds': 2}, 'config': flat, 'starts': [0]}
  about |= {'config': flat, 'sessions': [session | {'environment': {}}]}
  folder.mkdir()
  (folder / 'run.json').write_text(json.dumps(about))
  (folder / 'groups.json').write_text('[[0], [1]]')
  for seed, value in ((0, 0.5), (1, 0.75)):
    apart = folder / f'seeds_{seed}_{seed}'
    (apart / 'checkpoints/6/params').mkdir(parents=True)
    line = json.dumps({'step': 6, 'loss': 1.0, 'seconds': 4.0})
    (apart / 'metrics.jsonl').write_text(line + '\n')
    own = folder / f'seed_{seed}'
    own.mkdir()
    (own / 'metrics.jsonl').write_text(
      json.dumps({'step': 6, 'accuracy': value}) + '\n'
    )
    right = 1 if value == 0.5 else 2
    rows = [
      f'{int(i < 2)}\t{int(i < 2) if i <= right else int(i >= 2)}' for i in range(4)
    ]
    (own / 'dev_predictions.tsv').write_text('predicted\tlabel\n' + '\n'.join(rows))
  _, found = table.result([folder], root)
  first, spread = found.measured
  assert first.what == 'dev accuracy, mean of 2 seeds'
  assert first.value == pytest.approx(0.625) and first.low < 0.5
  assert spread == Measured(
    'dev accuracy, standard deviation', pytest.approx(0.125 * 2**0.5)
  )
  assert found.cost == {'updates': 6, 'seconds': 8} and table.stale(found, root) == []
  run.model.dropout = 0.0  # that is chosen, not filled in
  (folder / 'run.json').write_text(json.dumps(about | {'config': config.flat(run)}))
  with pytest.raises(UserError, match='in model.dropout;'):
    table.result([folder], root)
  (folder / 'run.json').write_text(json.dumps(about))
  shutil.rmtree(folder / 'seeds_1_1/checkpoints/6')  # the second group is not done
  with pytest.raises(UserError, match='not finished'):
    table.result([folder], root)


def test_the_table_is_what_the_result_files_give():
  root = scripts.EXPERIMENTS
  page = (root / 'README.md').read_text(encoding='utf-8')
  made = table.table(table.read_all(root / 'results'), root)
  assert page == table.renewed(page, made), 'run python experiments/table.py'
  for path in (root / 'results').rglob('*.json'):
    found = re.search(r'[\s"=,:](/|~|\.\./)\w[^"]*', path.read_text(encoding='utf-8'))
    assert not found, f'{path} holds a path of a machine: {found[0]}'
