"""Reports of prompted tasks: tables and curves of made-up results."""

import json
import os
import re
import subprocess
import sys

import pytest

from gpt_jax.config import UserError
from gpt_jax.reports import task_curves, task_results, task_tables, tasks

PNG = b'\x89PNG'


def score(value, half=0.03):
  return {'value': value, 'low': value - half, 'high': value + half}


def save(workdir, task, shots=0, seed=0, digest='d', **fields):
  """Writes one result; by default of HellaSwag's form, with accuracy 0.31."""
  rules = {'per_token': score(0.31), 'sum': score(0.29), 'unconditional': score(0.27)}
  made = {
    'task': task,
    'form': 'choices',
    'rule': 'per_token',
    'split': 'dev',
    'shots': shots,
    'seed': seed,
    'limit': 0,
    'examples': 'train',
    'questions': 1000,
    'truncated': 3,
    'metrics': {'accuracy': rules},
    'chance': 0.25,
    'step': 2000,
    'checkpoint': 'best',
    'parameters_sha256': f'{workdir.name}-weights',
    'parameters': 13_890_816,
    'tokenizer': 'bpe',
    'prompts_sha256': f'{task}-{shots}-{seed if shots else 0}',
    'int8': False,
  } | fields
  folder = workdir / 'eval'
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / f'{task}-{shots}shot-seed{seed}-{digest}.json'
  path.write_text(json.dumps(made))
  return path


def accuracy(value, half=0.03, rule='per_token'):
  return {'accuracy': {rule: score(value, half)}}


def written(tmp_path, *names):
  target = tmp_path / 'report'
  tasks.write([tmp_path / name for name in names], target)
  return (target / 'report.md').read_text()


def rows(text, *begin):
  """Returns the cells of a report's table rows that begin so."""
  found = []
  for line in text.splitlines():
    cells = [cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]]
    if cells[: len(begin)] == list(begin):
      found.append(cells)
  return found


def test_a_row_has_each_model_with_its_interval_then_the_papers_and_chance(tmp_path):
  save(tmp_path / 'a', 'hellaswag')
  save(tmp_path / 'b', 'hellaswag', metrics=accuracy(0.4), parameters=124_000_000)
  save(
    tmp_path / 'a', 'winograd', rule='partial', metrics=accuracy(0.5, rule='partial')
  )
  text = written(tmp_path, 'a', 'b')
  head, *_ = rows(text, 'task', 'metric')
  assert head[3:] == [
    *('a, 13.9M', 'b, 124M', 'GPT-2 1542M', 'GPT-3 Small', 'GPT-3 175B', 'chance')
  ]  # neither task has a number of GPT-2 117M
  (row,) = rows(text, 'hellaswag', 'accuracy')
  assert row[2:5] == ['0', '31.0 [28.0, 34.0]', '40.0 [37.0, 43.0]']
  assert row[5:] == ['-', '33.7', '78.9', '25.0']
  (row,) = rows(text, 'winograd', 'accuracy')
  assert row[3:] == ['50.0 [47.0, 53.0]', '-', '70.7', '66.3', '88.3', '25.0']


def test_seeds_have_a_mean_and_a_standard_deviation(tmp_path):
  for seed, value in enumerate((0.30, 0.32, 0.34)):
    save(tmp_path / 'a', 'hellaswag', 4, seed, metrics=accuracy(value))
    save(tmp_path / 'a', 'hellaswag', 0, seed)  # without examples no seed matters
  text = written(tmp_path, 'a')
  zero, few = rows(text, 'hellaswag', 'accuracy')
  assert zero[2:4] == ['0', '31.0 [28.0, 34.0]']
  assert few[2:4] == ['4', '32.0 ± 2.0 (n=3)']
  assert few[-2:] == ['79.3 (K=20)', '25.0']
  assert 'not shown' not in text


def test_published_numbers_are_those_of_as_many_examples(tmp_path):
  for shots in (0, 1, 20):
    save(tmp_path / 'a', 'hellaswag', shots)
  found = rows(written(tmp_path, 'a'), 'hellaswag', 'accuracy')
  assert [row[-2] for row in found] == ['78.9', '78.1', '79.3']


def test_perplexity_bleu_and_bits_are_no_percentages(tmp_path):
  both = {
    'perplexity': {'last_word': score(1234.5, 100), 'last_token': score(99.5, 1)},
    'accuracy': {'last_word': score(0.05, 0.01), 'last_word_filtered': score(0.2)},
  }
  text_set = {'form': 'text', 'rule': 'windows', 'split': 'test', 'chance': None}
  save(tmp_path / 'a', 'lambada', rule='last_word', metrics=both, chance=None)
  save(
    tmp_path / 'a',
    'enwik8',
    metrics={'bits_per_byte': {'windows': {'value': 1.23456}}},
    **text_set,
  )
  save(
    tmp_path / 'a',
    'wmt14_fr_en',
    64,
    form='free',
    rule='beam',
    metrics={'bleu': {'beam': score(1.5, 0.5)}},
    chance=None,
  )
  text = written(tmp_path, 'a')
  assert rows(text, 'lambada', 'perplexity')[0][3] == '1,234 [1,134, 1,334]'
  assert rows(text, 'lambada', 'accuracy')[0][3] == '5.00 [4.00, 6.00]'
  assert rows(text, 'lambada', 'accuracy')[0][-1] == '-'
  assert rows(text, 'enwik8', 'bits_per_byte')[0][3] == '1.235'
  assert rows(text, 'wmt14_fr_en', 'bleu')[0][3] == '1.50 [1.00, 2.00]'
  assert rows(text, 'wmt14_fr_en', 'bleu')[0][-2] == '39.2'
  order = [row[0] for row in rows(text) if row[2:3] in (['0'], ['64'])]
  assert list(dict.fromkeys(order)) == ['lambada', 'wmt14_fr_en', 'enwik8']
  (rules,) = rows(text, 'accuracy', '0', 'a')
  assert rules[3:] == ['5.00 [4.00, 6.00]', '-', '20.0 [17.0, 23.0]']
  assert 'By one rule only: wmt14_fr_en (beam), enwik8 (windows).' in text


def test_the_papers_rule_is_marked_among_all(tmp_path):
  save(tmp_path / 'a', 'hellaswag')
  text = written(tmp_path, 'a')
  (head,) = rows(text, 'metric', 'K', 'model')
  assert head[3:] == ["**per_token** (the paper's)", 'sum', 'unconditional']
  (row,) = rows(text, 'accuracy', '0', 'a')
  assert [cell[:4] for cell in row[3:]] == ['31.0', '29.0', '27.0']


def test_how_a_number_was_made_is_told(tmp_path):
  path = save(tmp_path / 'a', 'hellaswag', 4, 1, int8=True)
  text = written(tmp_path, 'a')
  (model,) = rows(text, 'a in int8')
  assert model[1:] == [
    *(f'`{tmp_path / "a"}`', 'best', '2000', '13,890,816', '`a-weights`', 'bpe'),
    'int8',
  ]
  (row,) = [row for row in rows(text, 'hellaswag', '4') if 'int8' in row[2]]
  assert row[3:] == [
    *(
      '1',
      'dev',
      '1000',
      'none',
      'none',
      '3',
      'train',
      '`hellaswag-4-`',
      f'`{path.name}`',
    )
  ]


def test_of_two_limits_the_larger_is_shown_and_the_other_named(tmp_path):
  few = save(
    tmp_path / 'a',
    'hellaswag',
    0,
    0,
    'e',
    limit=50,
    questions=50,
    metrics=accuracy(0.9),
  )
  save(tmp_path / 'a', 'hellaswag')
  text = written(tmp_path, 'a')
  (row,) = rows(text, 'hellaswag', 'accuracy')
  assert row[3] == '31.0 [28.0, 34.0]'
  (note,) = [line for line in text.splitlines() if 'not shown' in line]
  assert few.name in note and 'questions 50 instead of 1000' in note
  assert '(limit)' not in text


def test_seeds_of_other_questions_are_not_averaged(tmp_path):
  for seed in (0, 1):
    save(tmp_path / 'a', 'hellaswag', 4, seed, metrics=accuracy(0.3 + 0.02 * seed))
  save(tmp_path / 'a', 'hellaswag', 4, 2, split='test', metrics=accuracy(0.9))
  text = written(tmp_path, 'a')
  assert rows(text, 'hellaswag', 'accuracy')[0][3] == '31.0 ± 1.4 (n=2)'
  assert re.search(r'not shown: hellaswag, K=4, seed 2 .*split test instead', text)


def test_of_other_prompts_the_newest_is_shown_and_the_other_named(tmp_path):
  for digest, value, age in (('x', 0.9, 1), ('y', 0.2, 3), ('z', 0.8, 2)):
    path = save(
      *(tmp_path / 'a', 'hellaswag', 1, 0, digest),
      prompts_sha256=digest * 64,
      metrics=accuracy(value),
    )
    os.utime(path, (age, age))
  text = written(tmp_path, 'a')
  assert rows(text, 'hellaswag', 'accuracy')[0][3] == '20.0 [17.0, 23.0]'
  assert len(re.findall('not shown: hellaswag, K=1, seed 0', text)) == 2
  assert 'prompts xxxxxxxx instead of yyyyyyyy' in text


def test_models_that_were_asked_otherwise_and_subsets_are_pointed_out(tmp_path):
  save(tmp_path / 'a', 'hellaswag')
  save(tmp_path / 'b', 'hellaswag', prompts_sha256='other')
  save(tmp_path / 'a', 'piqa')
  save(tmp_path / 'b', 'piqa')
  save(tmp_path / 'a', 'arc_easy', limit=100, questions=100)
  text = written(tmp_path, 'a', 'b')
  assert 'hellaswag, K=0: not all models were asked the same prompts' in text
  assert 'piqa, K' not in text
  assert 'only 100 questions were asked (limit): arc_easy (a)' in text
  assert 'measured on dev, where the papers report test: arc_easy (a)' in text


def test_texts_by_a_tokenizer_that_changes_them_are_pointed_out(tmp_path):
  bits = {'bits_per_byte': {'windows': score(1.2)}}
  text = {'form': 'text', 'rule': 'windows', 'examples': None, 'metrics': bits}
  save(tmp_path / 'a', 'enwik8', **text)
  save(tmp_path / 'b', 'enwik8', **text, tokenizer='gpt1')
  save(tmp_path / 'b', 'hellaswag', tokenizer='gpt1')
  notes = [
    line for line in written(tmp_path, 'a', 'b').splitlines() if 'tokenizers' in line
  ]
  assert notes == [
    '- not comparable with other tokenizers, as its tokenizer changes letter case and '
    'blanks: enwik8 (b)'
  ]


def test_models_of_one_name_are_told_apart(tmp_path):
  save(tmp_path / 'x/a', 'hellaswag')
  save(tmp_path / 'y/a', 'hellaswag', 0, 0, 'd', parameters_sha256='1')
  save(tmp_path / 'y/a', 'hellaswag', 0, 0, 'e', parameters_sha256='2', step=100)
  found = task_results.choose(task_results.read([tmp_path / 'x/a', tmp_path / 'y/a']))
  assert list(task_results.labels(found.shown).values()) == [
    'x/a',
    'y/a at 2000',
    'y/a at 100',
  ]
  assert found.left_out == []


def test_a_workdir_that_is_named_twice_is_one_model(tmp_path):
  save(tmp_path / 'a', 'hellaswag')
  assert len(task_results.read([tmp_path / 'a', f'{tmp_path}/a/../a'])) == 1


def test_models_of_one_size_are_no_curve_against_size(tmp_path):
  for name in 'ab':
    save(tmp_path / name, 'hellaswag')
  shown = task_results.choose(task_results.read([tmp_path / 'a', tmp_path / 'b'])).shown
  assert task_curves.against_size(shown) is None
  save(tmp_path / 'c', 'hellaswag', parameters=10**9)
  found = task_results.read([tmp_path / name for name in 'abc'])
  (panel,) = task_curves.against_size(task_results.choose(found).shown).axes
  (own,) = [box for box in panel.containers if box.get_label() == 'K=0']
  assert list(own.lines[0].get_xdata()) == [13_890_816, 13_890_816, 10**9]


def test_bands_do_not_mix_seeds_with_intervals(tmp_path):
  for shots in (0, 1, 4):
    for seed in range(2 if shots else 1):
      value = accuracy(0.3 + 0.02 * seed)
      save(tmp_path / 'a', 'hellaswag', shots, seed, metrics=value)
  shown = task_results.choose(task_results.read([tmp_path / 'a'])).shown
  (panel,) = task_curves.against_shots(shown).axes
  band, bar = panel.collections
  assert {x for x, _ in band.get_paths()[0].vertices} == {1, 4}
  assert bar.get_paths()[0].vertices[:, 1] == pytest.approx([27, 33])


def test_curves_are_drawn_of_what_there_is(tmp_path):
  for name, parameters in (('a', 10**6), ('b', 10**7)):
    for task in ('hellaswag', 'piqa', 'lambada'):
      for shots in (0, 1, 4):
        save(tmp_path / name, task, shots, parameters=parameters)
  save(tmp_path / 'b', 'copa', parameters=10**7)
  text = written(tmp_path, 'a', 'b')
  for name in ('curves_K.png', 'curves_size.png'):
    assert (tmp_path / 'report' / name).read_bytes().startswith(PNG)
    assert f']({name})' in text
  shown = task_results.choose(task_results.read([tmp_path / 'a', tmp_path / 'b'])).shown
  by_shots = task_curves.against_shots(shown)
  assert [a.get_title() for a in by_shots.axes] == ['lambada', 'hellaswag', 'piqa']
  line = by_shots.axes[1].lines[0]
  assert list(line.get_xdata()) == [0, 1, 4]
  assert list(line.get_ydata()) == pytest.approx([31.0] * 3)
  grey = task_curves.against_size(shown).axes[1].lines[0]
  assert list(grey.get_ydata())[::7] == [33.7, 78.9]
  assert list(grey.get_xdata())[::7] == [125e6, 175e9]
  panel = task_curves.against_size(shown).axes[1]
  for place, container in enumerate(panel.containers):  # K = 0, 1, 4, side by side
    sizes = [size * 1.12 ** (place - 1) for size in (1e6, 1e7)]
    assert list(container[0].get_xdata()) == pytest.approx(sizes)
    assert list(container[0].get_ydata()) == pytest.approx([31.0] * 2)
    for ends in container[2][0].get_segments():
      assert list(ends[:, 1]) == pytest.approx([28, 34])
  assert len(panel.containers) == 3
  for axes in (by_shots.axes[1], panel):
    (chance,) = (line for line in axes.lines if line.get_label() == 'chance')
    assert set(chance.get_ydata()) == {25.0}


def test_a_plot_with_nothing_to_show_is_not_written_nor_an_old_one_kept(tmp_path):
  save(tmp_path / 'a', 'hellaswag')
  (tmp_path / 'report').mkdir()
  (tmp_path / 'report/curves_K.png').write_bytes(PNG)
  text = written(tmp_path, 'a')
  names = {path.name for path in (tmp_path / 'report').iterdir()}
  assert names == {'report.md', 'report.html'}
  assert '`curves_K.png` is not written: no task was evaluated with two' in text
  assert '`curves_size.png` is not written: no task has models of two sizes' in text


def test_no_results_are_an_error_that_says_what_makes_them(tmp_path):
  save(tmp_path / 'a', 'hellaswag')
  with pytest.raises(
    UserError, match=r'/b has no results.*eval --workdir=.*/b --tasks'
  ):
    tasks.write([tmp_path / 'a', tmp_path / 'b'], tmp_path / 'report')
  with pytest.raises(UserError, match='no workdirs to report'):
    tasks.write([], tmp_path / 'report')
  assert not (tmp_path / 'report').exists()


@pytest.mark.parametrize(
  'text, why',
  [
    ('{"task": "hellas', 'Unterminated'),
    ('[]', 'list'),
    ('{"task": "hellaswag"}', "lacks 'parameters_sha256'"),
    (b'\xff', 'byte 0 is not UTF-8'),
  ],
)
def test_a_damaged_file_is_named(tmp_path, text, why):
  path = save(tmp_path / 'a', 'hellaswag')
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  with pytest.raises(UserError, match=f'{path.name} is damaged.*{why}.*remove it'):
    task_results.read([tmp_path / 'a'])


@pytest.mark.parametrize(
  'fields, says',
  [
    ({'questions': '1000'}, " is damaged: questions is '1000'"),
    ({'metrics': {'accuracy': {'per_token': 0.3}}}, ": 'accuracy' is damaged: 0.3"),
    (
      {'metrics': {'accuracy': {'per_token': {'value': None}}}},
      ": 'accuracy' is damaged: value is None",
    ),
    ({'metrics': []}, ' is damaged: metrics is list'),
  ],
)
def test_a_file_of_other_fields_is_named(tmp_path, fields, says):
  path = save(tmp_path / 'a', 'hellaswag', **fields)
  with pytest.raises(UserError, match=f'{path.name}{says}'):
    task_results.read([tmp_path / 'a'])


def test_a_target_that_is_a_file_is_an_error(tmp_path):
  path = save(tmp_path / 'a', 'hellaswag')
  with pytest.raises(UserError, match='must be a folder'):
    tasks.write([tmp_path / 'a'], path)


def test_words_of_k():
  assert [task_tables.words(k) for k in (0, 1, 2, 64)] == ['zero', 'one', 'few', 'few']


def test_the_verb_writes_it_without_jax(tmp_path):
  save(tmp_path / 'a', 'hellaswag')
  code = (
    'import sys, launch; launch.main(); assert "jax" not in sys.modules, "imports jax"'
  )
  flags = [f'--workdir={tmp_path / "a"}', f'--target={tmp_path / "report"}']
  run = subprocess.run(
    [sys.executable, '-c', code, 'report', *flags], capture_output=True, text=True
  )
  assert run.returncode == 0, run.stderr
  assert run.stdout.splitlines() == [
    f'wrote {tmp_path / "report" / name}' for name in ('report.md', 'report.html')
  ]


def test_bands_are_one_deviation_wide(tmp_path):
  for seed, value in enumerate((0.30, 0.32, 0.34)):
    save(tmp_path / 'a', 'hellaswag', 4, seed, metrics=accuracy(value))
  shown = task_results.choose(task_results.read([tmp_path / 'a'])).shown
  (seeds,) = shown.values()
  over = task_results.summary(seeds, 'accuracy', 'per_token')
  assert over == pytest.approx((0.32, 0.30, 0.34, 0.02, 3))
