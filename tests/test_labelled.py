"""Labelled tasks: the official files, and small ones in their published schemas.

Columns of the files that are not in the shared data are those of GLUE's downloads (QQP,
QNLI, MNLI, STS-B, the tests of CoLA and MRPC), the README of snli_1.0, of SciTailV1.1
(tsv_format and snli_format) and of RACE (Lai et al. 2017).
"""

import collections
import csv
import json

import numpy as np
import pytest

from gpt_jax.config import UserError
from gpt_jax.tasks import labelled, labelled_table, readers

# --- The official files


def cells(path, encoding='utf-8'):
  """The cells of a file without quoting, by plain Python."""
  text = path.read_bytes().decode(encoding).replace('\r\n', '\n')
  return [line.split('\t') for line in text.removesuffix('\n').split('\n')]


@pytest.mark.parametrize('split', ['train', 'dev'])
@pytest.mark.parametrize(
  ('name', 'texts', 'label', 'header'),
  [('sst2', [0], 1, 1), ('cola', [3], 1, 0), ('rte', [1, 2], 3, 1)],
)
def test_glue_files_give_every_line(shared_data, split, name, texts, label, header):
  folder = shared_data / 'tasks' / name
  lines = cells(folder / f'{split}.tsv')[header:]
  labels = labelled_table.TASKS[name].labels
  wanted = [
    (tuple(line[i].strip() for i in texts), labels.index(line[label])) for line in lines
  ]
  assert [(e.texts, e.label) for e in labelled.read(name, folder, split)] == wanted


def test_counts_and_classes_of_the_official_files_are_those_of_their_authors(
  shared_data,
):
  classes = {
    ('cola', 'train'): {1: 6023, 0: 2528},  # 8,551 and 527: Warstadt et al. 2019
    ('cola', 'dev'): {1: 365, 0: 162},
    ('mrpc', 'train'): {1: 2753, 0: 1323},  # 4,076: Dolan & Brockett 2005
    ('rte', 'train'): {0: 1109, 1: 1104},
    ('sst2', 'train'): {1: 33828, 0: 26786},
    ('mctest', 'train'): {3: 326, 2: 303, 0: 288, 1: 283},  # 300 stories by 4
    ('mctest', 'dev'): {0: 55, 2: 55, 1: 50, 3: 40},
  }
  for (name, split), wanted in classes.items():
    examples = labelled.read(name, shared_data / 'tasks' / name, split)
    assert collections.Counter(e.label for e in examples) == wanted


def test_mrpc_keeps_quotes_and_loses_its_byte_order_mark(shared_data):
  folder = shared_data / 'tasks/mrpc'
  lines = cells(folder / 'msr_paraphrase_train.txt', 'utf-8-sig')
  assert lines[0] == ['Quality', '#1 ID', '#2 ID', '#1 String', '#2 String']
  wanted = [((a.strip(), b.strip()), int(q)) for q, _, _, a, b in lines[1:]]
  assert sum(a.count('"') % 2 for (a, _), _ in wanted) > 100
  assert [(e.texts, e.label) for e in labelled.read('mrpc', folder, 'train')] == wanted


@pytest.mark.parametrize(('split', 'count'), [('train', 5749), ('dev', 1500)])
def test_the_sts_benchmark_is_read_with_and_without_its_licences(
  shared_data, split, count
):
  folder = shared_data / 'tasks/stsb'
  lines = cells(folder / f'sts-{split}.csv')
  assert {len(line) for line in lines} == {7, 9}
  wanted = [((line[5].strip(), line[6].strip()), float(line[4])) for line in lines]
  assert len(wanted) == count
  assert [(e.texts, e.label) for e in labelled.read('stsb', folder, split)] == wanted


def test_story_cloze_is_divided_as_gpt1_did(shared_data):
  path = shared_data / 'tasks/storycloze/cloze_test_val__spring2016.csv'
  with open(path, newline='', encoding='utf-8') as stream:
    stories = {row[0]: row for row in list(csv.reader(stream))[1:]}
  train = labelled.read('storycloze', path.parent, 'train')
  dev = labelled.read('storycloze', path, 'dev')
  assert (len(train), len(dev)) == (1497, 374)  # datasets.py of OpenAI's release
  assert {e.id for e in train + dev} == set(stories) and len(stories) == 1871
  for e in train + dev:
    row = [cell.strip() for cell in stories[e.id]]
    assert e == ((' '.join(row[1:5]),), tuple(row[5:7]), int(row[7]) - 1, e.id)
  # scikit-learn's train_test_split takes the test part first.
  order = np.random.RandomState(3535999445).permutation(1871)
  assert [e.id for e in dev + train] == [list(stories)[i] for i in order]


@pytest.mark.parametrize(('split', 'count'), [('train', 300), ('dev', 50)])
def test_mctest_gives_four_questions_a_story_with_its_answers(
  shared_data, split, count
):
  folder = shared_data / 'tasks/mctest'
  stories = cells(folder / f'mc500.{split}.tsv')
  answers = cells(folder / f'mc500.{split}.ans')
  wanted = []
  for story, keys in zip(stories, answers, strict=True):
    for i, key in enumerate(keys):
      kind, question = story[3 + 5 * i].split(': ', 1)
      assert kind in ('one', 'multiple')
      choices = tuple(c.strip() for c in story[4 + 5 * i : 8 + 5 * i])
      text = story[2].replace('\\newline', '\n').replace('\\tab', '\t')
      texts = text.strip(), question.strip()
      wanted.append((texts, choices, 'ABCD'.index(key), f'{story[0]}:{i}'))
  assert len(wanted) == 4 * count
  assert labelled.read('mctest', folder, split) == wanted


def test_every_official_file_is_refused_as_that_of_another_task(shared_data):
  files = {
    'sst2': 'sst2/dev.tsv',
    'cola': 'cola/dev.tsv',
    'rte': 'rte/dev.tsv',
    'mrpc': 'mrpc/msr_paraphrase_train.txt',
    'stsb': 'stsb/sts-dev.csv',
    'storycloze': 'storycloze/cloze_test_val__spring2016.csv',
    'mctest': 'mctest/mc500.dev.tsv',
  }
  for owner, file in files.items():
    for name in set(labelled_table.TASKS) - {owner}:
      with pytest.raises(UserError, match=f'this is a file of {owner}, not of {name};'):
        labelled.read(name, shared_data / 'tasks' / file, 'dev')


# --- Small files in the published schemas


def write(path, *lines, end='\n'):
  """Writes lines; a tuple is a line of cells."""
  path.parent.mkdir(parents=True, exist_ok=True)
  lines = ['\t'.join(x) if isinstance(x, tuple) else x for x in lines]
  path.write_bytes(''.join(line + end for line in lines).encode())
  return path


QQP = 'id', 'qid1', 'qid2', 'question1', 'question2', 'is_duplicate'
QNLI = 'index', 'question', 'sentence', 'label'
RTE = 'index', 'sentence1', 'sentence2', 'label'
MNLI = (
  'index promptID pairID genre sentence1_binary_parse sentence2_binary_parse '
  'sentence1_parse sentence2_parse sentence1 sentence2 label1 gold_label'
).split()
STSB = 'index genre filename year old_index source1 source2 sentence1 sentence2'.split()


def test_qqp_leaves_out_and_counts_an_empty_question(tmp_path):
  write(
    tmp_path / 'train.tsv',
    QQP,
    ('7', '1', '2', 'What is "x?', 'What is it?', '1'),
    ('8', '3', '4', 'Why?', '', '0'),
    ('9', '3', '4', 'Why?', 'How?', '0'),
  )
  write(tmp_path / 'test.tsv', ('id', *QQP[3:5]), ('0', 'Who?', 'Where?'))
  told = []
  examples = labelled.read('qqp', tmp_path, 'train', told.append)
  assert [e.id for e in examples] == ['7', '9']
  assert examples[0] == (('What is "x?', 'What is it?'), (), 1, '7')
  assert len(told) == 1 and '1 examples left out' in told[0]
  assert labelled.read('qqp', tmp_path, 'test') == [(('Who?', 'Where?'), (), None, '0')]


def test_qnli_is_read_in_the_order_of_its_file(tmp_path):
  write(tmp_path / 'dev.tsv', QNLI, ('0', 'Who?', 'It was him.', 'not_entailment'))
  assert labelled.read('qnli', tmp_path, 'dev') == [
    (('Who?', 'It was him.'), (), 1, '0'),
  ]


def test_mnli_has_two_parts_of_dev_and_test(tmp_path):
  def row(label):
    return *'01', '1e', 'fiction', *'abcd', f'{label} so', 'yes', 'neutral', label

  write(tmp_path / 'dev_matched.tsv', tuple(MNLI), row('contradiction'))
  write(tmp_path / 'dev_mismatched.tsv', tuple(MNLI), row('neutral'))
  write(tmp_path / 'test_mismatched.tsv', tuple(MNLI[:-2]), row('x')[:-2])
  found = [labelled.read('mnli', tmp_path, s)[0] for s in ('dev', 'dev_mismatched')]
  assert [(e.texts, e.label) for e in found] == [
    (('contradiction so', 'yes'), 2),
    (('neutral so', 'yes'), 1),
  ]
  assert labelled.read('mnli', tmp_path, 'test_mismatched')[0].label is None


def snli(label, number=1):
  return json.dumps(
    {
      'annotator_labels': [label],
      'captionID': '341#4',
      'gold_label': label,
      'pairID': f'341#4r{number}',
      'sentence1': 'A dog\u2028runs.',
      'sentence1_parse': '(ROOT)',
      'sentence2': 'An animal runs.',
    },
    ensure_ascii=False,
  )


def test_snli_leaves_out_and_counts_pairs_without_a_gold_label(tmp_path):
  labels = '-', 'neutral', 'entailment', '-', 'contradiction'
  path = write(
    tmp_path / 'snli_1.0_train.jsonl', *(snli(x, i) for i, x in enumerate(labels))
  )
  told = []
  examples = labelled.read('snli', tmp_path, 'train', told.append)
  assert [e.label for e in examples] == [1, 0, 2]
  assert examples[0].texts == ('A dog\u2028runs.', 'An animal runs.')
  assert examples[0].id == '341#4r1'
  assert told == [f"{path}: 2 examples left out, whose gold_label is '-'"]
  with pytest.raises(UserError, match='a file of snli, not of scitail'):
    labelled.read('scitail', path, 'train')


def test_scitail_is_the_same_in_both_of_its_formats(tmp_path):
  pairs = ('Ice melts.', 'Ice is warm.', 'neutral'), ('Ice "x', 'Ice.', 'entails')
  write(tmp_path / 'a/tsv_format/scitail_1.0_dev.tsv', *pairs)
  longer = {'entails': 'entailment', 'neutral': 'neutral'}
  objects = [
    json.dumps({'gold_label': longer[c], 'sentence1': a, 'sentence2': b})
    for a, b, c in pairs
  ]
  write(tmp_path / 'b/snli_format/scitail_1.0_dev.txt', *objects)
  write(tmp_path / 'c/mine.txt', *objects)
  wanted = [
    (('Ice melts.', 'Ice is warm.'), (), 1, '1'),
    (('Ice "x', 'Ice.'), (), 0, '2'),
  ]
  for where in ('a', 'b', 'b/snli_format', 'c/mine.txt'):
    assert labelled.read('scitail', tmp_path / where, 'dev') == wanted


def test_glue_s_own_files_of_cola_mrpc_and_stsb_are_read(tmp_path):
  write(tmp_path / 'cola/test.tsv', ('index', 'sentence'), ('0', 'Bill whistled.'))
  assert labelled.read('cola', tmp_path / 'cola', 'test') == [
    (('Bill whistled.',), (), None, '0')
  ]
  names = 'index', '#1 ID', '#2 ID', '#1 String', '#2 String'
  write(tmp_path / 'mrpc/test.tsv', names, ('0', '1', '2', 'a', 'b'))
  assert labelled.read('mrpc', tmp_path / 'mrpc', 'test')[0] == (
    ('a', 'b'),
    (),
    None,
    '0',
  )
  row = ('3', 'news', 'f', '2012', '1', 'x', 'y', 'a', 'b')
  write(tmp_path / 'stsb/dev.tsv', (*STSB, 'score'), (*row, '2.5'))
  assert labelled.read('stsb', tmp_path / 'stsb', 'dev') == [(('a', 'b'), (), 2.5, '3')]
  write(tmp_path / 'stsb/test.tsv', tuple(STSB), row)
  assert labelled.read('stsb', tmp_path / 'stsb', 'test')[0].label is None
  with pytest.raises(UserError, match='a file of stsb, not of rte'):
    labelled.read('rte', tmp_path / 'stsb/test.tsv', 'test')


def passage(name, answers='BD', **changes):
  there = {
    'article': 'Tom went\nhome.',
    'questions': ['Who?', 'Tom went _ .'],
    'options': [['He', 'Tom', 'Ann', 'Eve'], ['away', 'out', 'up', 'home']],
    'answers': list(answers),
    'id': name,
  }
  return json.dumps(there | changes)


def test_race_gives_each_question_and_its_two_parts_apart(tmp_path):
  write(tmp_path / 'dev/middle/1.txt', passage('middle1.txt'))
  write(tmp_path / 'dev/high/2.txt', passage('high2.txt', 'AA'))
  examples = labelled.read('race', tmp_path, 'dev')
  assert [e.id for e in examples] == [
    'high2.txt:0',
    'high2.txt:1',
    'middle1.txt:0',
    'middle1.txt:1',
  ]
  assert examples[3] == (
    ('Tom went\nhome.', 'Tom went _ .'),
    ('away', 'out', 'up', 'home'),
    3,
    'middle1.txt:1',
  )
  assert labelled.read('race', tmp_path, 'dev_middle') == examples[2:]
  assert labelled.read('race', tmp_path, 'dev_high') == examples[:2]


@pytest.mark.parametrize(
  ('changes', 'wanted'),
  [
    ({'answers': ['B']}, '1.txt: line 1: questions, options and answers'),
    ({'options': 3}, '1.txt: line 1: questions, options and answers'),
    ({'answers': ['B', 'E']}, "question 1: answer 'E' is none of the labels"),
    ({'options': [['a'], ['b']]}, 'question 0 has options .* not 4'),
    ({'article': ' '}, "question 0: 'article' is empty"),
    ({'article': None}, "question 0: 'article' is NoneType, not text"),
  ],
)
def test_a_damaged_passage_of_race_is_an_error(tmp_path, changes, wanted):
  write(tmp_path / 'test/high/1.txt', passage('high1.txt', **changes))
  with pytest.raises(UserError, match=wanted):
    labelled.read('race', tmp_path, 'test')


def mctest(tmp_path, name='mc500.test', answers='A\tB\tC\tD', columns=20):
  story = 'mc500.test.0', 'Author: 1', 'One.\\newline\\tabTwo.'
  questions = 4 * ('multiple: What: this?', 'a', 'b', 'c', 'd')
  write(tmp_path / f'{name}.tsv', (*story, *questions[:columns]), end='\r\n')
  if answers:
    write(tmp_path / f'{name}.ans', *answers.split('|'), end='\r\n')


def test_mctest_has_labels_only_where_its_answers_are(tmp_path):
  mctest(tmp_path, answers='')
  examples = labelled.read('mctest', tmp_path, 'test')
  assert examples[1] == (
    ('One.\n\tTwo.', 'What: this?'),
    tuple('abcd'),
    None,
    'mc500.test.0:1',
  )
  mctest(tmp_path)
  assert [e.label for e in labelled.read('mctest', tmp_path, 'test')] == [0, 1, 2, 3]


@pytest.mark.parametrize(
  ('change', 'wanted'),
  [
    ({'answers': ''}, r"no mc500.dev.ans beside it\): no column 'answer'"),
    ({'answers': 'A\tB\tC\tD|A\tB\tC\tD'}, 'ans has 2 lines, .*tsv has 1'),
    ({'answers': 'A\tB\tC'}, 'ans: line 1 has 3 columns, not 4'),
    ({'answers': 'A\tB\tC\t4'}, "answer '4' is none of the labels of mctest: A, B"),
    ({'columns': 19}, 'tsv: line 1 has 22 columns, not 23'),
  ],
)
def test_a_damaged_mctest_is_an_error(tmp_path, change, wanted):
  mctest(tmp_path, name='mc500.dev', **change)
  with pytest.raises(UserError, match=wanted):
    labelled.read('mctest', tmp_path, 'dev')


# --- Lines and errors


def test_windows_line_ends_a_byte_order_mark_and_quotes_lose_no_line(tmp_path):
  rows_of_it = ('a "quote', '1'), ('one\u2028line\x85', '0'), ('"', '1')
  path = write(tmp_path / 'x.txt', ('\ufeffsentence', 'label'), *rows_of_it, end='\r\n')
  examples = labelled.read('sst2', path, 'train')
  assert [(e.texts[0], e.label) for e in examples] == [
    ('a "quote', 1),
    ('one\u2028line', 0),
    ('"', 1),
  ]
  assert [e.id for e in examples] == ['2', '3', '4']


GOOD = ('0', 'Rain falls.', 'It is wet.', 'entailment')


@pytest.mark.parametrize(
  ('lines', 'wanted'),
  [
    ([RTE, GOOD, ('1', 'a', 'b', 'maybe')], "line 3: label 'maybe' is none of the"),
    ([RTE, GOOD, ('1', 'a', ' ', 'entailment')], "line 3: 'sentence2' is empty"),
    ([RTE, GOOD, ('1', 'a', 'entailment')], 'line 3 has 3 columns, not 4: index, sent'),
    ([RTE, ('1', 'a', 'b', '', 'entailment')], 'line 2 has 5 columns, not 4'),
    ([(*RTE[:2], 'sentense2', 'label'), GOOD], "no column 'sentence2'.*mean sentense2"),
    ([RTE[:3], GOOD[:3]], "no column 'label'; there are 'index', 'sentence1'"),
    ([RTE, GOOD], "no example of class 'not_entailment' of rte"),
    ([RTE], 'train.tsv: no examples'),
    ([QNLI, ('0', 'Who?', 'He.', 'entailment')], 'a file of qnli, not of rte'),
  ],
)
def test_a_wrong_file_of_rte_is_an_error_that_names_its_line(tmp_path, lines, wanted):
  path = write(tmp_path / 'train.tsv', *lines)
  with pytest.raises(UserError, match=wanted) as caught:
    labelled.read('rte', tmp_path, 'train')
  assert str(path) in str(caught.value)


def test_a_file_with_more_of_another_task_s_columns_is_that_task_s(tmp_path):
  path = write(tmp_path / 'test.tsv', QNLI[:3], ('0', 'Who?', 'He.'))
  with pytest.raises(UserError, match='a file of qnli, not of sst2'):
    labelled.read('sst2', path, 'test')
  assert labelled.read('qnli', path, 'test')[0].texts == ('Who?', 'He.')


@pytest.mark.parametrize('score', ['5.1', '-0.1', 'nan', 'high'])
def test_a_score_outside_the_scale_is_an_error(tmp_path, score):
  row = 'g', 'f', '2012', '1', score, 'a', 'b'
  path = write(tmp_path / 'sts-dev.csv', (*row[:4], '5.000', 'a', 'b'), row)
  with pytest.raises(UserError, match=rf'line 2: score .{score}. is no number from 0'):
    labelled.read('stsb', path, 'dev')


@pytest.mark.parametrize(
  ('line', 'wanted'),
  [
    ('{"gold_label": ', 'line 2 is damaged: not JSON'),
    ('[1]', 'line 2 is damaged: list instead of an object'),
    ('{"gold_label": "neutral"}', "line 2: no column 'captionID'"),
    (snli(None), "line 2: 'gold_label' is NoneType, not text"),
  ],
)
def test_a_bad_json_line_is_an_error(tmp_path, line, wanted):
  write(tmp_path / 'snli_1.0_dev.jsonl', snli('neutral'), line)
  with pytest.raises(UserError, match=wanted):
    labelled.read('snli', tmp_path, 'dev')


def test_a_quote_that_a_story_does_not_close_is_an_error(tmp_path):
  path = write(tmp_path / 'a.csv', 'InputStoryid,b', 'x,"y', 'z,a')
  with pytest.raises(UserError, match='a.csv: line 2: not CSV'):
    list(readers.comma_separated(path))


def test_invalid_utf8_names_line_and_byte(tmp_path):
  (tmp_path / 'train.tsv').write_bytes(b'sentence\tlabel\na\t1\nb\xff\t0\n')
  with pytest.raises(UserError, match=r'train.tsv: line 3, byte 1: not UTF-8 \(0xff'):
    labelled.read('sst2', tmp_path, 'train')


def test_what_is_missing_is_named(tmp_path):
  with pytest.raises(UserError, match='train.*looked for sts-train.csv, train.tsv'):
    labelled.read('stsb', tmp_path, 'train')
  with pytest.raises(UserError, match='nowhere.*looked for dev.tsv, in_domain_dev.tsv'):
    labelled.read('cola', tmp_path / 'nowhere', 'dev')
  with pytest.raises(
    UserError, match='rte has no split .development., only train, dev'
  ):
    labelled.read('rte', tmp_path, 'development')
  with pytest.raises(UserError, match='task .sst-2. must be one of .*mean sst2'):
    labelled.read('sst-2', tmp_path, 'train')
  write(tmp_path / 'cloze_test_val__spring2016.csv', 'a,b', 'c,d')
  with pytest.raises(UserError, match="no column 'InputSentence1'; there are 'a', 'b'"):
    labelled.read('storycloze', tmp_path, 'train')


def test_story_cloze_needs_more_stories_than_are_held_out(tmp_path):
  names = ['InputStoryid', *(f'InputSentence{i}' for i in (1, 2, 3, 4))]
  names += ['RandomFifthSentenceQuiz1', 'RandomFifthSentenceQuiz2', 'AnswerRightEnding']
  path = write(tmp_path / 'a.csv', ','.join(names), *(374 * ['x,"A, a.",b,c,d,e,f,2']))
  with pytest.raises(UserError, match='374 examples, of which 374 are held out'):
    labelled.read('storycloze', path, 'dev')
  examples = labelled.read('storycloze', path, 'test')
  assert len(examples) == 374
  assert examples[0] == (('A, a. b c d',), ('e', 'f'), 1, 'x')


def test_the_split_of_story_cloze_is_the_permutation_of_the_release_s_seed():
  release = labelled_table.TASKS['storycloze'].releases[0]
  # datasets.py of openai/finetune-transformer-lm: 374 of the 1,871 stories.
  assert release.held_out == (374, 3535999445)
  order = np.random.RandomState(3535999445).permutation(1871).tolist()
  stories = list(range(1871))
  dev, train = (
    labelled._part(stories, 'f', split, *release.held_out) for split in ('dev', 'train')
  )
  assert dev == order[:374] and train == order[374:]
