"""What tasks ask: prompts to the letter, readers of official files, de-tokenizers."""

import dataclasses
import gzip
import json
import shutil

import prompt_files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.config import UserError
from gpt_jax.evaluation import metrics, text_metrics
from gpt_jax.tasks import detokenize, prompted_files
from gpt_jax.tasks.prompted import TASKS, TEXTS
from gpt_jax.tasks.prompts import draw, prompt
from gpt_jax.tasks.published import published


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """A folder with a small file of every task."""
  return prompt_files.write(tmp_path_factory.mktemp('tasks'))


# --- Prompts


def test_prompts_of_every_task_are_the_golden_ones_to_the_letter(data):
  golden = json.loads(prompt_files.GOLDEN.read_text(encoding='utf-8'))
  found = prompt_files.prompts(data)
  assert found.keys() == golden.keys() == TASKS.keys()
  for name, expected in golden.items():
    assert found[name] == expected, name


@pytest.mark.parametrize(
  ('name', 'context', 'answer'),
  [
    ('copa', 'My body cast a shadow over the grass because', ' the sun was rising.'),
    (
      'openbookqa',
      'Organisms require energy in order to do what?',
      ' mature and develop.',
    ),
    ('sat', 'lull is to trust as', ' cajole is to compliance'),
    ('webquestions', 'Q: What school did burne hogarth establish?\n\nA:', None),
    ('two_digit_addition', '\n\nQ: What is 98 plus 45?\n\nA:', ' 143'),
    (
      'cycle_letters_in_word',
      'Please unscramble the letters into a word, and write that word:\nasinoc =',
      ' casino',
    ),
    (
      'wmt16_de_en',
      f'Q: What is the English translation of {prompt_files._KEINESFALLS} A:',
    )
    + (None,),
  ],
)
def test_prompts_are_those_of_the_papers_appendix(data, name, context, answer):
  question = prompted_files.read(TASKS[name], data)[0]
  assert prompt(TASKS[name], question) == context
  assert answer is None or answer == question.answers[question.gold[0]]


def test_the_right_answer_of_every_question_is_one_of_its_answers(data):
  for name, task in TASKS.items():
    for question in prompted_files.read(task, data):
      assert question.answers and all(isinstance(a, str) for a in question.answers)
      assert set(question.gold) <= set(range(len(question.answers))), name
      assert question.gold or name == 'wsc'
      assert bool(question.completion) == (task.form == 'partial')
      if question.gold:  # what an oracle writes has full marks
        said = question.answers[question.gold[0]]
        for metric in task.metrics:
          if metric in text_metrics.METRICS and not metric.startswith('rouge'):
            assert text_metrics.METRICS[metric](said, question.answers) == 1, (
              name,
              metric,
            )


def test_tasks_are_of_known_forms_rules_and_metrics():
  known = {*text_metrics.METRICS, 'bleu', 'macro_f1', 'question_accuracy', 'perplexity'}
  allowed = {
    'choices': ('sum', 'per_token', 'per_byte', 'per_character', 'unconditional'),
    'partial': ('partial', 'full'),
    'last_word': ('last_word',),
    'free': ('beam', 'top_k_2'),
  }
  for name, task in TASKS.items():
    assert task.rule in allowed[task.form], name
    assert all(m in known or hasattr(metrics, m) for m in task.metrics), name
    assert task.split in task.files and task.examples in (*task.files, 'itself'), name


# --- Examples of the context


def test_examples_are_drawn_alike_from_a_seed_and_never_hold_the_question(data):
  task = TASKS['two_digit_addition']
  base = prompted_files.read(task, data)[0]
  pool = [
    base._replace(context=f'Q{i % 30}', id=str(i)) for i in range(60)
  ]  # all twice
  seen = set()
  for number, question in enumerate(pool):
    drawn = draw(task, pool, question, number, 10, seed=3)
    contexts = [example.context for example in drawn]
    assert len(set(contexts)) == 10 and question.context not in contexts
    assert drawn == draw(task, pool, question, number, 10, seed=3)
    seen.add(tuple(contexts))
  assert len(seen) == 60  # new ones for each question
  other = draw(task, pool, pool[0], 0, 10, seed=4)
  assert other != draw(task, pool, pool[0], 0, 10, seed=3)


def test_fewer_examples_are_the_beginning_of_more(data):
  task = TASKS['reversed_words']
  base = prompted_files.read(task, data)[0]
  pool = [base._replace(context=f'{i} =') for i in range(9)]
  assert draw(task, pool, base, 5, 8)[:3] == draw(task, pool, base, 5, 3)


def test_wsc_and_multirc_have_one_set_of_examples_for_all_questions(data):
  assert [name for name, task in TASKS.items() if task.fixed] == ['wsc', 'multirc']
  pool = prompted_files.examples(TASKS['wsc'], data)
  question = prompted_files.read(TASKS['wsc'], data)[0]
  assert [e.gold for e in pool] == [(0,), (), (0,)]  # the second is no example
  for number in range(5):
    drawn = draw(TASKS['wsc'], pool, question, number, 2)
    assert drawn == draw(TASKS['wsc'], pool, question, 0, 2)
    assert all(example.gold for example in drawn)


def test_questions_of_one_passage_are_no_examples_of_each_other(data):
  for name in ('coqa', 'quac', 'squad_v2', 'mctest'):
    questions = prompted_files.read(TASKS[name], data)
    with pytest.raises(UserError, match=f'shots=1 of {name}: .* are 0 of'):
      draw(TASKS[name], questions, questions[1], 1, 1)


def test_too_many_or_negative_shots_are_refused(data):
  task = TASKS['copa']
  pool, question = (
    prompted_files.examples(task, data),
    prompted_files.read(task, data)[0],
  )
  with pytest.raises(UserError, match='shots=3 of copa: .* are 2 of 2; give fewer'):
    draw(task, pool, question, 0, 3)
  with pytest.raises(UserError, match='shots=-1 must be 0 or more'):
    draw(task, pool, question, 0, -1)


# --- Files


REAL = {  # questions in the files that their authors publish
  ('lambada', 'test'): 5153,
  ('hellaswag', 'dev'): 1000,
  ('storycloze', 'dev'): 1871,
  ('natural_questions', 'dev'): 3610,
  ('winogrande', 'dev'): 1267,
  ('piqa', 'dev'): 1838,
  ('arc_easy', 'dev'): 570,
  ('openbookqa', 'dev'): 500,
  ('sciq', 'dev'): 1000,
  ('mctest', 'dev'): 200,
  ('boolq', 'dev'): 3270,
  ('cb', 'dev'): 56,
  ('copa', 'dev'): 100,
  ('rte', 'dev'): 277,
  **{
    (name, 'test'): 2000 if 'digit' in name else 10_000
    for name, task in TASKS.items()
    if task.folder == 'gpt3_synthetic'
  },
}


@pytest.mark.parametrize(('name', 'split'), REAL, ids='-'.join)
def test_official_files_give_every_question(shared_data, name, split):
  task = TASKS[name]
  questions = prompted_files.read(task, shared_data / 'tasks', split)
  assert len(questions) == REAL[name, split]
  assert all(set(q.gold) < {*range(len(q.answers) + 1)} for q in questions)
  pool = prompted_files.examples(task, shared_data / 'tasks', split, 'itself')
  one = questions[7]
  assert one.example() not in [e.example() for e in draw(task, pool, one, 7, 5)]


def test_released_arithmetic_and_scrambles_are_read_to_the_letter(shared_data):
  for name in ('four_digit_subtraction.jsonl', 'random_insertion_in_word.jsonl.gz'):
    path = shared_data / 'tasks/gpt3_synthetic' / name
    opened = gzip.open if path.suffix == '.gz' else open
    with opened(path, 'rt', encoding='utf-8') as stream:
      lines = [json.loads(line) for line in stream]
    questions = prompted_files.read(
      TASKS[name.partition('.')[0]], shared_data / 'tasks'
    )
    for line, question in zip(lines, questions, strict=True):
      assert question.context == line['context']
      assert question.answers == (line['completion'],)


def test_lambada_loses_no_letter_of_its_passages(shared_data):
  with open(
    shared_data / 'tasks/lambada/lambada_test.jsonl', encoding='utf-8'
  ) as stream:
    passages = [json.loads(line)['text'] for line in stream]
  for passage, q in zip(
    passages, prompted_files.read(TASKS['lambada'], shared_data / 'tasks'), strict=True
  ):
    assert q.zero_shot + q.answers[0] == passage
    assert q.context == f'{q.zero_shot} _____. ->'


def test_more_blanks_before_the_last_word_belong_to_it(tmp_path):
  path = tmp_path / 'lambada_test.jsonl'
  path.write_text('{"text": "She sat  there"}\n{"text": "It is so "}\n')
  one, two = prompted_files.read(TASKS['lambada'], path)
  assert (one.zero_shot, one.answers) == ('She sat', ('  there',))
  assert (two.zero_shot, two.answers) == ('It is', (' so',))


def test_exports_of_the_hub_are_read_like_the_authors_files(data, tmp_path):
  flat = {
    'arc_easy': {
      'question': 'Why?',
      'choices': {'text': ['a', 'b'], 'label': ['1', '2']},
      'answerKey': '2',
    },
    'anli_r2': {'premise': 'It rains.', 'hypothesis': 'It is wet.', 'label': 2},
    'triviaqa': {'question': 'Who?', 'answer': {'value': 'Ann', 'aliases': ['A']}},
    'webquestions': {'question': 'who is it', 'answers': ['Ann', 'Bob']},
    'wsc': {
      'text': 'Ann knew that she won.',
      'span1_text': 'Ann',
      'span2_text': 'she',
      'span2_index': 3,
      'label': 1,
    },
  }
  wanted = {
    'arc_easy': ('Question: Why?\nAnswer:', (' a', ' b'), (1,)),
    'anli_r2': (
      'anli 2: anli 2: It rains.\nQuestion: It is wet. True, False, or Neither?',
      (' True', ' False', ' Neither'),
      (1,),
    ),
    'triviaqa': ('Q: Who?\n\nA:', (' Ann', ' A'), (0, 1)),
    'webquestions': ('Q: Who is it?\n\nA:', (' Ann', ' Bob'), (0, 1)),
    'wsc': (
      'Passage: Ann knew that *she* won.\nQuestion: In the passage above, what does '
      'the pronoun "*she*" refer to?\nAnswer:',
      (' Ann',),
      (0,),
    ),
  }
  for name, row in flat.items():
    path = tmp_path / f'{name}.jsonl'
    path.write_text(json.dumps(row))
    assert prompted_files.read(TASKS[name], path)[0][:3] == wanted[name]


def test_translations_are_read_from_sgml_and_plain_files(tmp_path):
  sgm = (
    '<refset><doc><seg id="1"> A &amp; B </seg>\n<seg id="2">{}</seg></doc></refset>'
  )
  (tmp_path / 'newstest2016-ende-src.en.sgm').write_text(sgm.format('dog'))
  (tmp_path / 'newstest2016-ende-ref.de.sgm').write_text(sgm.format('Hund'))
  (tmp_path / 'newstest2014.fr').write_text('un\ndeux\n')
  (tmp_path / 'newstest2014.en').write_text('one\ntwo\n')
  found = prompted_files.read(TASKS['wmt16_en_de'], tmp_path)
  assert [(q.context, q.answers[0]) for q in found] == [
    ('A & B =', ' A & B'),
    ('dog =', ' Hund'),
  ]
  assert prompted_files.read(TASKS['wmt14_fr_en'], tmp_path)[1].context == 'deux ='
  (tmp_path / 'newstest2014.en').write_text('one\n')
  with pytest.raises(UserError, match='have not as many lines'):
    prompted_files.read(TASKS['wmt14_fr_en'], tmp_path)


def test_errors_of_files_say_what_to_do(data, tmp_path):
  copa, nothing = TASKS['copa'], tmp_path / 'nothing'
  with pytest.raises(
    UserError, match=r'no dev split of copa; .*super.gluebenchmark.com'
  ):
    prompted_files.read(copa, nothing)
  with pytest.raises(UserError, match="copa has no split 'all', only train, dev, test"):
    prompted_files.read(copa, data, 'all')
  path = tmp_path / 'val.jsonl'
  path.write_text('')
  with pytest.raises(UserError, match='no questions of copa; fetch it again'):
    prompted_files.read(copa, path)
  row = json.loads((data / 'copa/val.jsonl').read_text())
  path.write_text(json.dumps({k: v for k, v in row.items() if k != 'choice2'}))
  with pytest.raises(UserError, match=r"val.jsonl: line 1: no column 'choice2'"):
    prompted_files.read(copa, path)
  path.write_text(json.dumps(row | {'label': 7}))
  with pytest.raises(UserError, match=r"line 1: label '7' is none of 0, 1"):
    prompted_files.read(copa, path)
  (tmp_path / 'broken.jsonl.gz').write_bytes(
    gzip.compress(f'{json.dumps(row)}\n'.encode())[:-9]
  )
  with pytest.raises(UserError, match='damaged or truncated'):
    prompted_files.read(copa, tmp_path / 'broken.jsonl.gz')


@pytest.mark.parametrize(
  ('name', 'text', 'message'),
  [
    ('squad_v2', '{"data": [{"title": "x"}]}', "article 1: no 'paragraphs'"),
    ('coqa', '{"data": [1]}', "story 1: no 'questions'"),
    ('triviaqa', '[]', 'list instead of an object'),
    ('drop', '{', 'is damaged: not JSON'),
    ('drop', '[1]', 'list instead of an object'),
    ('wsc', '{"text": "x", "label": 1, "target": 3}', "line 1: no 'span2_text'"),
    ('winograd', '<collection>', 'not XML'),
    ('sat', 'x\ny\n', 'line 1: a question has 8 lines'),
    ('cbt_cn', '2 a\n', "line 1: begins with '2', not 1"),
    ('lambada', '{"text": "word"}', 'line 1: a passage of one word'),
    ('winogrande', '{"sentence": "x", "option1": "a", "option2": "b", "answer": "1"}')
    + ('line 1: the sentence has no _',),
  ],
)
def test_other_files_are_refused(tmp_path, name, text, message):
  names = TASKS[name].files[TASKS[name].split]
  path = tmp_path / names[0]
  path.write_text(text)
  with pytest.raises(UserError, match=message):
    prompted_files.read(TASKS[name], path)


# --- Published numbers


def test_published_numbers_belong_to_a_task_and_its_metrics():
  few = {'hellaswag': 79.3, 'copa': 92, 'two_digit_addition': 100, 'wmt14_en_fr': 32.6}
  for name, value in few.items():
    found = published(name)
    assert ('GPT-3 175B', 'few', value) in [(p.model, p.shots, p.value) for p in found]
  assert ('GPT-2 1542M', 8.63) in [(p.model, p.value) for p in published('lambada')]
  for name in {**TASKS, **TEXTS}:
    metric = TASKS[name].metrics if name in TASKS else (TEXTS[name].metric,)
    assert all(p.metric in metric for p in published(name)), name
  without = {name for name in TASKS if not published(name)}
  assert without == {
    'sciq',
    'mctest',
    'six_digit_addition',
    'six_digit_subtraction',
    'sum_of_digits',
  }


# --- Texts for perplexity


SPACINGS = [detokenize.WIKITEXT, detokenize.LM1B, detokenize.PTB, detokenize.TREEBANK]
TOKENS = (
  "word Mr. U.S. I don n't 't 's ' '' `` \" . , ; : ! ? ( ) [ ] $ % @-@ @,@ @.@ - 12 "
  '000 3 5 ... etc. <unk> = -LRB- -RRB- "x x" a-b 1,2 1.5 x. N \u00a3 caf\u00e9'
).split()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*TOKENS, '', '\n', ' ']), max_size=25))
def test_detokenizers_can_be_inverted_whatever_the_text(tokens):
  text = ' '.join(tokens)
  for spacing in SPACINGS:
    assert spacing.invert(spacing.read(text)) == text


@pytest.mark.parametrize(
  ('spacing', 'tokens', 'text'),
  [
    (
      detokenize.WIKITEXT,
      ' He said , " It is 1 @,@ 000 m ( 3 @.@ 5 % ) . " Mr. B \'s well @-@ known dog ',
      'He said, "It is 1,000 m (3.5%)." Mr. B\'s well-known dog',
    ),
    (
      detokenize.WIKITEXT,
      ' half @-@ <unk> thing , <unk> @-@ <unk> ( <unk> @.@ 5 ) , 4 @,@ <unk> . ',
      'half-<unk> thing, <unk>-<unk> (<unk>.5), 4,<unk>.',
    ),
    (detokenize.LM1B, "They didn 't go : it rained .", "They didn't go: it rained."),
    (
      detokenize.PTB,
      " mr. x does n't pay $ N or N % \n",
      "mr. x doesn't pay $N or N%\n",
    ),
    (
      detokenize.TREEBANK,
      "`` I do n't , '' said -LRB- old -RRB- Ann .",
      '"I don\'t," said (old) Ann.',
    ),
    (detokenize.LM1B, 'the etc. is cut', 'the etc.  is cut'),  # marked, not lost
  ],
)
def test_detokenizers_write_as_people_do(spacing, tokens, text):
  assert spacing.read(tokens) == text
  assert spacing.invert(text) == tokens


def test_wikitext_is_read_by_page_with_the_units_of_the_original(shared_data):
  path = shared_data / 'text/wikitext-2/valid.txt'
  original = path.read_text(encoding='utf-8')
  documents = prompted_files.read_documents(TEXTS['wikitext2'], path, 'dev')
  assert len(documents) == 60
  # 217,646 tokens: Merity et al. 2017, table 1, who count ends of lines.
  assert sum(d.words + d.lines for d in documents) == 217_646
  assert sum(d.bytes for d in documents) == len(original.encode())
  assert sum(d.characters for d in documents) == len(original)
  begun = ''.join(d.text for d in documents[:20])
  assert original.startswith(detokenize.WIKITEXT.invert(begun))
  assert begun.count('  ') < 0.001 * len(begun.split())  # marks are rare


def test_small_texts_of_every_set_are_read(tmp_path):
  (tmp_path / 'ptb.test.txt').write_text(" no it was n't \n but N % \n")
  (found,) = prompted_files.read_documents(TEXTS['ptb'], tmp_path)
  assert found.text == "no it wasn't\nbut N%\n"
  assert found[2:] == (7, 2, 26, 26)
  (tmp_path / 'news.en.heldout-00000-of-00050').write_text('Dogs ran .\nC , dogs .\n')
  one, two = prompted_files.read_documents(TEXTS['lm1b'], tmp_path)
  assert (one.text, one[2:], two.text) == ('Dogs ran.', (3, 1, 11, 11), 'C, dogs.')
  (tmp_path / 'text8').write_bytes(b'abc')
  with pytest.raises(UserError, match='has 3 bytes, not 100,000,000'):
    prompted_files.read_documents(TEXTS['text8'], tmp_path)


def test_enwik8_is_cut_at_its_last_twentieth(tmp_path):
  path = tmp_path / 'enwik8'
  with open(path, 'wb') as stream:  # sparse: characters of 2 bytes across the cut
    stream.seek(94_999_999)
    stream.write('\u00e9'.encode() * 2_500_000)
    stream.truncate(100_000_000)
  (found,) = prompted_files.read_documents(TEXTS['enwik8'], path)
  assert (found.bytes, found.characters) == (4_999_999, 2_500_000)
  assert found.text.strip('\u00e9') == '\0'


def test_the_page_on_tasks_lists_every_one_with_its_rule_and_published_number():
  page = (prompt_files.GOLDEN.parents[2] / 'docs/tasks.md').read_text(encoding='utf-8')
  rows = [[c.strip() for c in r.split('|')[1:-1]] for r in page.splitlines()]
  rows = {row[0].strip('`'): row for row in rows if len(row) == 6}
  real = {name for name, _ in REAL} | {'wikitext2'}
  for name, task in TASKS.items():
    few = [
      f'{p.value:g}'
      for p in published(name)
      if (p.model, p.shots, p.metric) == ('GPT-3 175B', 'few', task.metrics[0])
    ]
    wanted = 'real file' if name in real else 'fixture only'
    assert rows[name][2:] == [wanted, task.form, task.rule, (few or ['-'])[0]], name
  assert {n for n, row in rows.items() if row[2] == 'real file'} == real
  assert set(TEXTS) < set(rows)


def test_a_new_task_needs_no_registration_to_be_asked(data):
  mine = dataclasses.replace(TASKS['copa'], name='mine', folder='copa', separator=' | ')
  question = prompted_files.read(mine, data)[0]
  shutil.copy(data / 'copa/train.jsonl', data / 'copa/dev.jsonl')
  assert ' | ' in prompt(mine, question, prompted_files.read(mine, data, 'train'))
