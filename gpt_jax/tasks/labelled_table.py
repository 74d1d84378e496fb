"""The labelled tasks of GPT-1's fine-tuning, and the formats of their files.

`TASKS` is the table. Columns are those of GLUE (Wang et al. 2018, gluebenchmark.com),
SNLI 1.0 (Bowman et al. 2015), SciTail 1.1 (Khot et al. 2018), the STS benchmark (Cer et
al. 2017), MRPC (Dolan & Brockett 2005), Story Cloze (Mostafazadeh et al. 2016), RACE
(Lai et al. 2017) and MCTest (Richardson et al. 2013; the set of 500 stories).

Texts come in the order that the model reads them (Radford et al. 2018, section 3.3):
premise, hypothesis; passage, question. The order of QNLI is not published; ours is the
file's: question, sentence. Two sentences of a similarity have no order; the model reads
both.

On Hugging Face's hub columns are those of the data set that `Release.home` names.
"""

import dataclasses
from functools import partial

from gpt_jax import config


@dataclasses.dataclass(frozen=True)
class Release:
  """How one distribution of a task is written.

  Attributes:
    form: one of `readers.FORMS`, or 'hub', which `readers.hub` reads; 'exported' is
      what its data set is as JSON lines.
    files: by split, names in the task's folder; the first that exists is read. Of the
      hub: what it calls the split.
    label: its column; '' where the test file has none.
    id: its column, if any.
    also: other columns that tell its files from those of another task.
    names: of all columns, where the file does not say them.
    extra: columns without a name that may follow.
    labels: how the classes are written, where that is not as in `Task.labels`.
    unusable: a column and the value that marks rows to leave out.
    joined: the columns of the texts are sentences of one text.
    held_out: (examples, seed): splits train and dev share a file, and this is dev.
    home: of the hub: a public data set that is written so.
    no_label: of the hub: what a test split without labels has in their place.
  """

  form: str
  files: dict[str, tuple[str, ...]]
  texts: tuple[str, ...]
  label: str
  choices: tuple[str, ...] = ()
  id: str = ''
  also: tuple[str, ...] = ()
  names: tuple[str, ...] = ()
  extra: int = 0
  labels: tuple[str, ...] = ()
  unusable: tuple[str, str] = ('', '')
  joined: bool = False
  held_out: tuple[int, int] | None = None
  home: str = ''
  no_label: str = ''

  def columns(self, split: str) -> tuple[str, ...]:
    """Returns the columns that a file of a split must have."""
    label = () if split.startswith('test') else (self.label,)  # GLUE keeps them
    return (*self.also, *self.texts, *self.choices, *label)


@dataclasses.dataclass(frozen=True, eq=False)  # the same only as itself, and hashable
class Task:
  """What a task asks.

  Attributes:
    kind: 'classification' (one text), 'entailment' (premise, hypothesis), 'similarity'
      (two texts without an order) or 'multiple_choice'.
    labels: what the file calls each class, or each choice, in the order of
      `Example.label`; empty for a regression.
    metrics: functions of `gpt_jax.evaluation.metrics` that judge it; the first chooses
      the best epoch.
    hub: how it is written as a data set of Hugging Face's, if it can be read as one.
    scores: least and greatest label of a regression.
  """

  name: str
  kind: str
  labels: tuple[str, ...]
  metrics: tuple[str, ...]
  releases: tuple[Release, ...]
  hub: Release | None = None
  scores: tuple[float, float] | None = None

  def __str__(self) -> str:
    return self.name


def _files(
  pattern: str, train: str = 'train', dev: str = 'dev'
) -> dict[str, tuple[str, ...]]:
  """Returns the files of three splits, called alike; '|' divides other names."""
  words = {'train': train, 'dev': dev, 'test': 'test'}
  return {s: tuple(pattern.replace('SPLIT', w).split('|')) for s, w in words.items()}


_GLUE = _files('SPLIT.tsv')
_PAIR = 'sentence1', 'sentence2'
_SST2 = Release('tsv', _GLUE, ('sentence',), 'label', id='index')
_COLA = Release(
  'tsv',
  {s: (f'{s}.tsv', f'in_domain_{s}.tsv') for s in ('train', 'dev')},
  ('sentence',),
  'label',
  names=('source', 'label', 'original', 'sentence'),
)
_COLA_TEST = Release('tsv', {'test': ('test.tsv',)}, ('sentence',), '', id='index')
_MRPC = Release(
  'tsv',
  _files('SPLIT.tsv|msr_paraphrase_SPLIT.txt'),
  ('#1 String', '#2 String'),
  'Quality',
  id='index',
)
_QQP = Release(
  'tsv',
  _GLUE,
  ('question1', 'question2'),
  'is_duplicate',
  id='id',
  unusable=('question2', ''),  # two of GLUE's training pairs
)
_RTE = Release('tsv', _GLUE, _PAIR, 'label', id='index', also=('index',))
_QNLI = Release('tsv', _GLUE, ('question', 'sentence'), 'label', id='index')
_MNLI = Release(
  'tsv',
  {
    'train': ('train.tsv',),
    'dev': ('dev_matched.tsv',),
    'dev_mismatched': ('dev_mismatched.tsv',),
    'test': ('test_matched.tsv',),
    'test_mismatched': ('test_mismatched.tsv',),
  },
  _PAIR,
  'gold_label',
  id='index',
  also=('index', 'promptID', 'pairID', 'genre'),
)
_SNLI = Release(
  'jsonl',
  _files('snli_1.0_SPLIT.jsonl'),
  _PAIR,
  'gold_label',
  id='pairID',
  also=('captionID', 'pairID'),
  unusable=('gold_label', '-'),  # its annotators did not agree
)
_SCITAIL = Release(
  'tsv',
  _files('scitail_1.0_SPLIT.tsv|tsv_format/scitail_1.0_SPLIT.tsv'),
  ('premise', 'hypothesis'),
  'label',
  names=('premise', 'hypothesis', 'label'),
  labels=('entails', 'neutral'),
)
_SCITAIL_JSON = Release(
  'jsonl',
  _files('scitail_1.0_SPLIT.txt|snli_format/scitail_1.0_SPLIT.txt'),
  _PAIR,
  'gold_label',
)
_STSB = Release(
  'tsv',
  _files('sts-SPLIT.csv'),
  _PAIR,
  'score',
  names=('genre', 'filename', 'year', 'id', 'score', *_PAIR),
  extra=2,  # the sources of some pairs
)
_STSB_GLUE = Release(
  'tsv',
  _GLUE,
  _PAIR,
  'score',
  id='index',
  also=('index', 'genre', 'filename', 'year'),
)
# GPT-1 trains on the validation stories, but for 374 of them: datasets.py of
# openai/finetune-transformer-lm, whose split by scikit-learn is this permutation.
_CLOZE = Release(
  'csv',
  _files(
    'cloze_test_SPLIT__spring2016.csv|'
    'cloze_test_SPLIT__spring2016 - cloze_test_ALL_SPLIT.csv',
    train='val',
    dev='val',
  ),
  tuple(f'InputSentence{i}' for i in (1, 2, 3, 4)),
  'AnswerRightEnding',
  choices=('RandomFifthSentenceQuiz1', 'RandomFifthSentenceQuiz2'),
  id='InputStoryid',
  joined=True,
  held_out=(374, 3535999445),
)
_LETTERS = 'A', 'B', 'C', 'D'
_RACE = Release(
  'race',
  _files('SPLIT')
  | {f'{s}_{d}': (f'{s}/{d}',) for s in ('dev', 'test') for d in ('middle', 'high')},
  ('article', 'question'),
  'answer',
  choices=_LETTERS,
  id='id',
)
_MCTEST = Release(
  'mctest',
  _files('mc500.SPLIT.tsv'),
  ('story', 'question'),
  'answer',
  choices=_LETTERS,
  id='id',
)

_SPLITS = _files('SPLIT', dev='validation')
_GLUE_HUB = partial(
  Release, 'hub', files=_SPLITS, texts=_PAIR, label='label', id='idx', no_label='-1'
)
_SST2_HUB = _GLUE_HUB(
  home='hf:nyu-mll/glue:sst2', texts=('sentence',), labels=('negative', 'positive')
)
_COLA_HUB = _GLUE_HUB(
  home='hf:nyu-mll/glue:cola',
  texts=('sentence',),
  labels=('unacceptable', 'acceptable'),
)
_MRPC_HUB = _GLUE_HUB(
  home='hf:nyu-mll/glue:mrpc', labels=('not_equivalent', 'equivalent')
)
_QQP_HUB = _GLUE_HUB(
  home='hf:nyu-mll/glue:qqp',
  texts=_QQP.texts,
  labels=('not_duplicate', 'duplicate'),
  unusable=_QQP.unusable,
)
_RTE_HUB = _GLUE_HUB(home='hf:nyu-mll/glue:rte')
_QNLI_HUB = _GLUE_HUB(home='hf:nyu-mll/glue:qnli', texts=_QNLI.texts)
_STSB_HUB = _GLUE_HUB(home='hf:nyu-mll/glue:stsb', no_label='-1.0')
_MNLI_HUB = _GLUE_HUB(
  home='hf:nyu-mll/glue:mnli',
  files={
    'train': ('train',),
    'dev': ('validation_matched',),
    'dev_mismatched': ('validation_mismatched',),
    'test': ('test_matched',),
    'test_mismatched': ('test_mismatched',),
  },
  texts=('premise', 'hypothesis'),
)
_SNLI_HUB = Release(
  'hub',
  _SPLITS,
  ('premise', 'hypothesis'),
  'label',
  home='hf:stanfordnlp/snli',
  unusable=('label', '-1'),
)
# Not its subset tsv_format: that was read as if quotes were CSV's, so that lines of the
# file run together; its card lists 23,097 training pairs of 23,596.
_SCITAIL_HUB = Release(
  'hub', _SPLITS, _PAIR, 'gold_label', home='hf:allenai/scitail:snli_format'
)
_CLOZE_HUB = Release(
  'hub',
  {'train': ('validation',), 'dev': ('validation',), 'test': ('test',)},
  tuple(f'input_sentence_{i}' for i in (1, 2, 3, 4)),
  'answer_right_ending',
  choices=('sentence_quiz1', 'sentence_quiz2'),
  id='story_id',
  joined=True,
  held_out=_CLOZE.held_out,
  home='hf:LSDSem/story_cloze:2016',
)
_RACE_HUB = Release(
  'hub', _SPLITS, _RACE.texts, 'answer', choices=_LETTERS, home='hf:ehovy/race:all'
)

_BINARY = '0', '1'
_ENTAILS = 'entailment', 'not_entailment'
_NLI = 'entailment', 'neutral', 'contradiction'
_RIGHT = ('accuracy',)


def _exported(task: Task) -> Task:
  """Returns a task that is also read from its data set of the hub as JSON lines."""
  if task.hub is None:
    return task
  files = {
    split: tuple(dict.fromkeys(f'{each}.jsonl' for each in (*names, split)))
    for split, names in task.hub.files.items()
  }
  labels = task.hub.labels or task.labels
  lines = dataclasses.replace(task.hub, form='exported', files=files, labels=labels)
  return dataclasses.replace(task, releases=(*task.releases, lines))


TASKS = {
  str(task): _exported(task)
  for task in (
    Task('sst2', 'classification', _BINARY, _RIGHT, (_SST2,), _SST2_HUB),
    Task(
      'cola',
      'classification',
      _BINARY,
      ('matthews',),
      (_COLA, _COLA_TEST),
      _COLA_HUB,
    ),
    Task('mrpc', 'similarity', _BINARY, ('f1', 'accuracy'), (_MRPC,), _MRPC_HUB),
    Task('qqp', 'similarity', _BINARY, ('f1', 'accuracy'), (_QQP,), _QQP_HUB),
    Task('rte', 'entailment', _ENTAILS, _RIGHT, (_RTE,), _RTE_HUB),
    Task('qnli', 'entailment', _ENTAILS, _RIGHT, (_QNLI,), _QNLI_HUB),
    Task('mnli', 'entailment', _NLI, _RIGHT, (_MNLI,), _MNLI_HUB),
    Task('snli', 'entailment', _NLI, _RIGHT, (_SNLI,), _SNLI_HUB),
    Task(
      'scitail', 'entailment', _NLI[:2], _RIGHT, (_SCITAIL, _SCITAIL_JSON), _SCITAIL_HUB
    ),
    Task(
      'stsb',
      'similarity',
      (),
      ('pearson', 'spearman'),
      (_STSB, _STSB_GLUE),
      _STSB_HUB,
      scores=(0.0, 5.0),
    ),
    Task('storycloze', 'multiple_choice', ('1', '2'), _RIGHT, (_CLOZE,), _CLOZE_HUB),
    Task('race', 'multiple_choice', _LETTERS, _RIGHT, (_RACE,), _RACE_HUB),
    Task('mctest', 'multiple_choice', _LETTERS, _RIGHT, (_MCTEST,)),
  )
}


def task_of(run: config.Run) -> Task | None:
  """Returns the task that a run is fine-tuned on; None of a language model."""
  return TASKS.get(run.task.name)
