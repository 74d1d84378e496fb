"""Labelled tasks from data sets of Hugging Face's `datasets`, saved in a folder.

Columns, splits and names of classes are those of nyu-mll/glue, stanfordnlp/snli,
allenai/scitail (snli_format), ehovy/race and LSDSem/story_cloze, by their cards.
"""

import subprocess
import sys

import numpy as np
import pytest

from gpt_jax.config import UserError
from gpt_jax.tasks import labelled, labelled_table

NLI = 'entailment', 'neutral', 'contradiction'
RTE = 'entailment', 'not_entailment'
FILLER = 'filler'  # of columns that are not read


@pytest.fixture
def save(tmp_path):
  """Saves a data set; gives its address.

  Arguments are columns of lists, by split; `classes` are the label's names.
  """
  datasets = pytest.importorskip('datasets')

  def save(splits, classes=None, label='label', dtype=None):
    tables = {}
    for split, columns in splits.items():
      table = datasets.Dataset.from_dict(columns)
      if label in columns and (classes or dtype):
        kind = datasets.ClassLabel(names=classes) if classes else datasets.Value(dtype)
        table = table.cast_column(label, kind)
      tables[split] = table
    datasets.DatasetDict(tables).save_to_disk(str(tmp_path / 'saved'))
    return f'hf:{tmp_path}/saved'

  return save


# Of a task: columns of texts, names of the classes in the order of the data set.
LAYOUTS = {
  'sst2': (('sentence',), ('negative', 'positive')),
  'cola': (('sentence',), ('unacceptable', 'acceptable')),
  'mrpc': (('sentence1', 'sentence2'), ('not_equivalent', 'equivalent')),
  'qqp': (('question1', 'question2'), ('not_duplicate', 'duplicate')),
  'rte': (('sentence1', 'sentence2'), RTE),
  'qnli': (('question', 'sentence'), RTE),
  'mnli': (('premise', 'hypothesis'), NLI),
}


@pytest.mark.parametrize('turned', [False, True], ids=['as published', 'turned'])
@pytest.mark.parametrize('name', LAYOUTS)
def test_a_class_of_glue_is_known_by_its_name_wherever_it_stands(save, name, turned):
  columns, classes = LAYOUTS[name]
  order = list(range(len(classes)))
  stored = classes[::-1] if turned else classes
  texts = {c: [f' {c} {i}' for i in order] for c in columns}
  numbers = [stored.index(c) for c in classes]
  # idx counts the lines of GLUE's file, of which the data set lacks some.
  train = texts | {'label': numbers, 'idx': [i + 7 for i in order]}
  dev = 'validation_matched' if name == 'mnli' else 'validation'
  test = 'test_matched' if name == 'mnli' else 'test'
  source = save(
    {'train': train, dev: train, test: train | {'label': [-1] * len(order)}}, stored
  )
  wanted = [(tuple(f'{c} {i}' for c in columns), (), i, str(i + 7)) for i in order]
  assert labelled.read(name, source, 'train') == wanted
  assert labelled.read(name, source, 'dev') == wanted
  unlabelled = [(texts, (), None, id) for texts, _, _, id in wanted]
  assert labelled.read(name, source, 'test') == unlabelled


def test_the_names_are_those_of_the_labels_that_the_official_files_number():
  for name in ('sst2', 'cola', 'mrpc', 'qqp'):
    task = labelled_table.TASKS[name]
    assert task.labels == ('0', '1')  # of GLUE's files
    assert task.hub.labels == LAYOUTS[name][1]


def test_mnli_has_two_parts_of_dev_and_test_there_too(save):
  row = {'premise': ['a'], 'hypothesis': ['b'], 'idx': [0]}
  splits = {
    f'{s}_mismatched': row | {'label': [n]}
    for s, n in (('validation', 2), ('test', -1))
  }
  source = save(splits, NLI)
  assert labelled.read('mnli', source, 'dev_mismatched')[0].label == 2
  assert labelled.read('mnli', source, 'test_mismatched')[0].label is None
  with pytest.raises(
    UserError, match="no split 'validation_matched', only validation_m"
  ):
    labelled.read('mnli', source, 'dev')


def test_snli_leaves_out_and_counts_pairs_without_a_gold_label_in_every_split(save):
  labels = [-1, 1, 0, -1, 2]
  columns = {'premise': list('abcde'), 'hypothesis': list('vwxyz'), 'label': labels}
  source = save({'train': columns, 'test': columns}, NLI)
  for split in ('train', 'test'):
    told = []
    examples = labelled.read('snli', source, split, told.append)
    assert [(e.texts, e.label, e.id) for e in examples] == [
      (('b', 'w'), 1, '1'),
      (('c', 'x'), 0, '2'),
      (('e', 'z'), 2, '4'),
    ]
    assert told == [f"{source}: 2 examples left out, whose label is '-1'"]


def test_qqp_leaves_out_an_empty_question_there_too(save):
  columns = {'question1': list('abc'), 'question2': ['x', '', 'z'], 'label': [1, 0, 0]}
  source = save({'train': columns | {'idx': [0, 1, 2]}}, LAYOUTS['qqp'][1])
  told = []
  assert [e.id for e in labelled.read('qqp', source, 'train', told.append)] == [
    '0',
    '2',
  ]
  assert '1 examples left out' in told[0]


def test_scitail_has_strings_for_labels(save):
  columns = {
    'sentence1_parse': [FILLER] * 2,
    'sentence1': ['Ice melts.', 'Ice "x'],
    'sentence2': ['Ice is warm.', 'Ice.'],
    'annotator_labels': [[FILLER]] * 2,
    'gold_label': ['neutral', 'entailment'],
  }
  source = save({'validation': columns})
  assert labelled.read('scitail', source, 'dev') == [
    (('Ice melts.', 'Ice is warm.'), (), 1, '0'),
    (('Ice "x', 'Ice.'), (), 0, '1'),
  ]
  columns = {'premise': ['a'], 'hypothesis': ['b'], 'label': ['neutral']}
  source = save({'validation': columns})
  with pytest.raises(UserError, match="'sentence1'.*as hf:allenai/scitail:snli_format"):
    labelled.read('scitail', source, 'dev')


def test_scores_of_32_bits_are_those_of_the_file(save):
  scores = [0.0, 3.8, 2.333, 5.0]
  assert float(np.float32(3.8)) != 3.8
  pair = {'sentence1': list('abcd'), 'sentence2': list('wxyz'), 'idx': [0, 1, 2, 3]}
  splits = {
    'train': pair | {'label': scores},
    'validation': pair | {'label': [0.0, 1.0, 5.5, 2.0]},
    'test': pair | {'label': [-1.0] * 4},
  }
  source = save(splits, dtype='float32')
  assert [e.label for e in labelled.read('stsb', source, 'train')] == scores
  assert [e.label for e in labelled.read('stsb', source, 'test')] == [None] * 4
  with pytest.raises(UserError, match="row 2: label '5.5' is no number from 0 to 5"):
    labelled.read('stsb', source, 'dev')


def race(**changes):
  columns = {
    'example_id': ['high1.txt'] * 2,
    'article': ['Tom went\nhome.'] * 2,
    'answer': ['B', 'D'],
    'question': ['Who?', 'Tom went _ .'],
    'options': [['He', 'Tom', 'Ann', 'Eve'], ['away', 'out', 'up', 'home']],
  }
  return columns | changes


def test_the_options_of_race_are_its_choices(save):
  source = save({'validation': race(), 'test': race(options=[list('abcde')] * 2)})
  assert labelled.read('race', source, 'dev')[1] == (
    ('Tom went\nhome.', 'Tom went _ .'),
    ('away', 'out', 'up', 'home'),
    3,
    '1',
  )
  with pytest.raises(UserError, match='test: row 0 has options .*, not 4'):
    labelled.read('race', source, 'test')
  with pytest.raises(
    UserError, match="race has no split 'dev_high', only train, dev, t"
  ):
    labelled.read('race', source, 'dev_high')


def test_story_cloze_is_divided_as_its_file_is(save, shared_data):
  path = shared_data / 'tasks/storycloze/cloze_test_val__spring2016.csv'
  found = [*labelled.readers.comma_separated(path)]
  columns = {f'input_sentence_{i}': f'InputSentence{i}' for i in (1, 2, 3, 4)}
  columns |= {f'sentence_quiz{i}': f'RandomFifthSentenceQuiz{i}' for i in (1, 2)}
  columns |= {'story_id': 'InputStoryid'}
  columns = {new: [row[old] for row in found] for new, old in columns.items()}
  columns['answer_right_ending'] = [int(row['AnswerRightEnding']) for row in found]
  source = save({'validation': columns})
  for split in ('train', 'dev'):
    wanted = labelled.read('storycloze', path, split)
    assert labelled.read('storycloze', source, split) == wanted


def rte(**changes):
  columns = {'sentence1': ['a', 'b'], 'sentence2': ['c', 'd'], 'label': [0, 1]}
  return columns | changes


@pytest.mark.parametrize(
  ('columns', 'classes', 'wanted'),
  [
    (
      rte(),
      ('entailment', 'other'),
      "classes of 'label' are entailment, other, not ent",
    ),
    (rte(), NLI, 'entailment, neutral, contradiction, not entailment, not_.*glue:rte'),
    (rte(), None, "row 0: label '0' is none of the labels of rte: entailment, not_"),
    (rte(label=['entailment', 'x']), None, "row 1: label 'x' is none of the labels"),
    (rte(label=[0, -1]), RTE, "row 1: label '-1' is none of the labels of rte"),
    (rte(label=[0, None]), RTE, "row 1: 'label' is NoneType, not text"),
    (rte(label=[0, 0]), RTE, "no example of class 'not_entailment' of rte"),
    (rte(sentence2=['c', ' ']), RTE, "train: row 1: 'sentence2' is empty"),
    (rte(sentence2=['c', None]), RTE, "row 1: 'sentence2' is NoneType, not text"),
    (rte(sentence2=[1, 2]), RTE, "row 0: 'sentence2' is int, not text"),
    (
      {'sentence1': ['a'], 'sentense2': ['b'], 'label': [0]},
      RTE,
      "row 0: no column 'sentence2'; .*mean sentense2.* Give one as hf:nyu-mll/gl",
    ),
    ({'sentence1': ['a'], 'sentence2': ['b']}, None, "no column 'label'; there are"),
  ],
)
def test_a_wrong_data_set_is_an_error_that_names_its_row(
  save, columns, classes, wanted
):
  source = save({'train': columns}, classes)
  with pytest.raises(UserError, match=wanted) as caught:
    labelled.read('rte', source, 'train')
  assert source in str(caught.value)


def test_a_test_split_of_another_task_is_known_by_its_classes(save):
  columns = {'sentence': ['a'], 'label': [-1], 'idx': [0]}
  source = save({'test': columns}, LAYOUTS['cola'][1])
  assert labelled.read('cola', source, 'test')[0].label is None
  with pytest.raises(UserError, match='unacceptable, acceptable, not negative, posit'):
    labelled.read('sst2', source, 'test')
  columns = {'sentence1': ['a'], 'sentence2': ['b'], 'label': [-1]}
  source = save({'test': columns}, LAYOUTS['mrpc'][1])
  with pytest.raises(UserError, match='not_equivalent, equivalent, not scores'):
    labelled.read('stsb', source, 'test')


def test_a_name_a_subset_and_a_revision_are_told_apart(monkeypatch):
  datasets = pytest.importorskip('datasets')
  asked = []

  def load_dataset(name, config, **options):
    asked.append((name, config, options['revision'], options['split']))
    raise FileNotFoundError('not on\nthe hub')

  monkeypatch.setattr(datasets, 'load_dataset', load_dataset)
  for source in ('glue', 'a/b', 'a/b:c-d', 'glue:c@refs/pr/2', 'a/b@v1.0'):
    with pytest.raises(
      UserError, match=rf'hf:{source}: can not be read \(not on the hub'
    ):
      labelled.read('rte', f'hf:{source}', 'dev')
  assert asked == [
    ('glue', None, None, 'validation'),
    ('a/b', None, None, 'validation'),
    ('a/b', 'c-d', None, 'validation'),
    ('glue', 'c', 'refs/pr/2', 'validation'),
    ('a/b', None, 'v1.0', 'validation'),
  ]


def test_a_folder_of_data_files_is_opened_and_may_have_any_name(tmp_path, monkeypatch):
  datasets = pytest.importorskip('datasets')
  monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
  folder = tmp_path / 'a:b@c'
  folder.mkdir()
  lines = 'sentence1,sentence2,label\na,b,entailment\nc,d,not_entailment\n'
  (folder / 'train.csv').write_text(lines)
  examples = labelled.read('rte', f'hf:{folder}', 'train')
  assert [(e.texts, e.label) for e in examples] == [(('a', 'b'), 0), (('c', 'd'), 1)]


def test_mctest_and_unknown_splits_are_refused_before_anything_is_fetched():
  with pytest.raises(UserError, match='mctest is not read from hf:.*its official'):
    labelled.read('mctest', 'hf:a/b', 'train')
  with pytest.raises(UserError, match="rte has no split 'validation', only train, dev"):
    labelled.read('rte', 'hf:a/b', 'validation')


@pytest.mark.parametrize('source', ['hf:', 'hf::sst2', 'hf:@main'])
def test_an_address_without_a_name_is_an_error(source):
  pytest.importorskip('datasets')
  with pytest.raises(UserError, match=rf'{source}: can not be read \(no name\)'):
    labelled.read('sst2', source, 'dev')


def test_without_datasets_the_error_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'datasets', None)
  with pytest.raises(UserError, match='hf:a/b needs datasets: `pip install datasets`'):
    labelled.read('rte', 'hf:a/b', 'dev')
  code = 'import sys, gpt_jax.tasks.labelled; assert "datasets" not in sys.modules'
  subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize(
  ('name', 'text'),
  [
    ('state.json', '{}'),
    ('state.json', '{"_data_files": 7}'),
    ('dataset_info.json', '{"features": {"a": 7}}'),
  ],
)
def test_a_damaged_folder_is_an_error_that_names_it(save, tmp_path, name, text):
  columns = {'sentence': ['a'], 'label': [0]}
  where = save({'validation': columns}, ['negative', 'positive'])
  (tmp_path / 'saved/validation' / name).write_text(text)
  with pytest.raises(UserError, match='saved: can not be read'):
    labelled.read('sst2', where, 'dev')
