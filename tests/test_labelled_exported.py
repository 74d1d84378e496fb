"""Labelled tasks from data sets of the hub that were written as JSON lines."""

import json

import pytest
from test_labelled_hub import LAYOUTS, NLI, race

from gpt_jax.config import UserError
from gpt_jax.tasks import labelled, labelled_table


def write(folder, name, rows):
  folder.mkdir(exist_ok=True)
  text = ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
  (folder / name).write_text(text, encoding='utf-8')
  return folder


def glue(name, size=4):
  """Returns rows of a task of GLUE, their labels numbers, and the examples wanted."""
  columns, classes = LAYOUTS[name]
  rows, wanted = [], []
  for i in range(size):
    texts = tuple(f'{column} é{i}' for column in columns)
    label = i % len(classes)
    rows.append(dict(zip(columns, texts, strict=True)) | {'label': label, 'idx': i + 7})
    wanted.append((texts, (), label, str(i + 7)))
  return rows, wanted


@pytest.mark.parametrize('name', LAYOUTS)
def test_numbers_stand_for_the_classes_in_the_order_of_the_data_set(tmp_path, name):
  rows, wanted = glue(name)
  matched = '_matched' * (name == 'mnli')
  write(tmp_path, 'train.jsonl', rows)
  write(tmp_path, f'validation{matched}.jsonl', rows)
  write(tmp_path, f'test{matched}.jsonl', [row | {'label': -1} for row in rows])
  assert labelled.read(name, tmp_path, 'train') == wanted
  assert labelled.read(name, tmp_path, 'dev') == wanted
  unlabelled = [(texts, (), None, id) for texts, _, _, id in wanted]
  assert labelled.read(name, tmp_path, 'test') == unlabelled
  # Under any name, and with names of classes.
  named = [row | {'label': LAYOUTS[name][1][row['label']]} for row in rows]
  write(tmp_path, 'any.jsonl', named)
  assert labelled.read(name, tmp_path / 'any.jsonl', 'train') == wanted


def test_both_parts_of_mnli_are_read(tmp_path):
  rows, wanted = glue('mnli')
  for part in ('validation', 'test'):
    write(tmp_path, f'{part}_mismatched.jsonl', rows)
    split = {'validation': 'dev', 'test': 'test'}[part]
    assert labelled.read('mnli', tmp_path, f'{split}_mismatched') == wanted
  with pytest.raises(UserError, match=r'looked for .*validation_matched\.jsonl'):
    labelled.read('mnli', tmp_path, 'dev')


def test_a_test_split_of_rte_is_no_file_of_scitail(tmp_path):
  rows, _ = glue('rte')
  write(tmp_path, 'test.jsonl', [row | {'label': -1} for row in rows])
  assert len(labelled.read('rte', tmp_path / 'test.jsonl', 'test')) == 4
  unlabelled = [{k: row[k] for k in ('sentence1', 'sentence2')} for row in rows]
  write(tmp_path, 'test.jsonl', unlabelled)
  assert [e.label for e in labelled.read('rte', tmp_path, 'test')] == [None] * 4


def test_scores_snli_scitail_race_and_story_cloze(tmp_path):
  pair = {'sentence1': 'a', 'sentence2': 'b'}
  scores = [3.799999952316284, 5, 0.0]  # as 32 bits are written
  rows = [pair | {'label': score, 'idx': i} for i, score in enumerate(scores)]
  write(tmp_path / 'stsb', 'validation.jsonl', rows)
  found = labelled.read('stsb', tmp_path / 'stsb', 'dev')
  assert [e.label for e in found] == [3.8, 5.0, 0.0]

  premises = {'premise': 'a', 'hypothesis': 'b'}
  labels = [1, -1, 2, 0]
  write(tmp_path / 'snli', 'test.jsonl', [premises | {'label': n} for n in labels])
  told = []
  found = labelled.read('snli', tmp_path / 'snli', 'test', told.append)
  assert [e.label for e in found] == [1, 2, 0] and '1 examples left out' in told[0]

  rows = [pair | {'gold_label': label} for label in ('neutral', 'entailment')]
  write(tmp_path / 'scitail', 'validation.jsonl', rows)
  found = labelled.read('scitail', tmp_path / 'scitail', 'dev')
  assert [e.label for e in found] == [1, 0]

  columns = race()
  rows = [{name: columns[name][i] for name in columns} for i in (0, 1)]
  write(tmp_path / 'race', 'validation.jsonl', rows)
  found = labelled.read('race', tmp_path / 'race', 'dev')
  assert [(e.choices, e.label) for e in found] == [
    (('He', 'Tom', 'Ann', 'Eve'), 1),
    (('away', 'out', 'up', 'home'), 3),
  ]

  story = {f'input_sentence_{i}': f'S{i}.' for i in (1, 2, 3, 4)}
  story |= {'sentence_quiz1': 'x', 'sentence_quiz2': 'y', 'story_id': 's'}
  rows = [story | {'answer_right_ending': 1 + i % 2} for i in range(380)]
  write(tmp_path / 'cloze', 'validation.jsonl', rows)
  found = labelled.read('storycloze', tmp_path / 'cloze', 'dev')
  assert len(found) == 374 and {e.label for e in found} == {0, 1}
  assert found[0].texts == ('S1. S2. S3. S4.',)


@pytest.mark.parametrize(
  ('change', 'wanted'),
  [
    ({'label': 2}, "line 2: label '2' is none of the labels of rte: entailment, not_"),
    ({'label': -1}, "line 2: label '-1' is none of the labels of rte"),
    ({'label': None}, "line 2: 'label' is NoneType, not text"),
    ({'sentence2': ' '}, "line 2: 'sentence2' is empty"),
    ({'sentence2': 3}, "line 2: 'sentence2' is int, not text"),
  ],
)
def test_a_wrong_line_is_an_error_that_names_it(tmp_path, change, wanted):
  rows, _ = glue('rte')
  rows[1] |= change
  write(tmp_path, 'train.jsonl', rows)
  with pytest.raises(UserError, match=wanted):
    labelled.read('rte', tmp_path, 'train')


def test_files_whose_columns_are_another_task_s_are_refused(tmp_path):
  for owner in LAYOUTS:
    write(tmp_path / owner, 'train.jsonl', glue(owner)[0])
  wrong = [
    ('sst2', 'rte', 'a file of mrpc or rte or stsb, not of sst2'),
    ('rte', 'mnli', 'a file of mnli or snli, not of rte'),
    ('sst2', 'qnli', 'a file of qnli, not of sst2'),
    ('qqp', 'mrpc', 'a file of mrpc or rte or stsb, not of qqp'),
    ('mrpc', 'cola', 'a file of sst2 or cola, not of mrpc'),
  ]
  for name, owner, wanted in wrong:
    with pytest.raises(UserError, match=wanted):
      labelled.read(name, tmp_path / owner, 'train')


def test_they_are_what_the_data_set_writes(tmp_path):
  """Against the `to_json` of `datasets`, with the classes named in the data set."""
  datasets = pytest.importorskip('datasets')
  for name, (_, classes) in LAYOUTS.items():
    rows, _ = glue(name)
    table = datasets.Dataset.from_list(rows)
    table = table.cast_column('label', datasets.ClassLabel(names=list(classes)))
    (tmp_path / name).mkdir()
    datasets.DatasetDict({'train': table}).save_to_disk(str(tmp_path / name / 'set'))
    table.to_json(str(tmp_path / name / 'train.jsonl'))
    assert labelled.read(name, tmp_path / name, 'train') == labelled.read(
      name, f'hf:{tmp_path / name}/set', 'train'
    )


def test_every_task_of_the_hub_is_read_so():
  for task in labelled_table.TASKS.values():
    exported = [r for r in task.releases if r.form == 'exported']
    assert len(exported) == (task.hub is not None)
    for release in exported:
      assert release.labels == (task.hub.labels or task.labels)
      assert release.files['dev'][0].endswith('.jsonl')
  assert labelled_table.TASKS['mnli'].hub.labels in ((), NLI)
