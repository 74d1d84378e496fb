"""Small files of our own in the schemas that the authors of tasks publish.

Where appendix G of GPT-3's paper shows a question of a task, it is the first one here.
Schemas: the tasks' own releases, as `PromptedTask.home` names them.

`python -m tests.prompt_files` writes goldens/prompts.json. What the papers print is in
paper_prompts.py, by hand, and test_paper_prompts.py compares the two.
"""

import gzip
import json
import tempfile
from pathlib import Path

from gpt_jax.tasks import prompted_files as task_files
from gpt_jax.tasks.prompted import TASKS
from gpt_jax.tasks.prompts import draw, prompt

GOLDEN = Path(__file__).parent / 'goldens/prompts.json'


def _lines(*rows: dict) -> str:
  return ''.join(f'{json.dumps(row)}\n' for row in rows)


def _super_glue(train: list, val: list) -> dict[str, str]:
  return {'train.jsonl': _lines(*train), 'val.jsonl': _lines(*val)}


def _rows(names: str, *rows: tuple) -> list[dict]:
  return [dict(zip(names.split(), row, strict=True)) for row in rows]


def _span(text: str, span: str) -> dict:
  return {'start': text.index(span), 'end': text.index(span) + len(span) - 1}


def _same(train: str, scored: str, rows: list[dict]) -> dict[str, str]:
  """Returns two files: all rows but the first, and the first."""
  return {train: _lines(*rows[1:]), scored: _lines(rows[0])}


_LAMBADA = [
  'She held the torch in front of her.\n\n"A step. Cut in the rock." She moved faster. '
  '"In fact," she said, "there\'s more than a step',
  'Alice was friends with Bob. Alice went to visit her friend Bob',
  'George bought some baseball equipment, a ball, a glove, and a bat',
]
_HELLASWAG = _rows(
  'ind activity_label ctx_a ctx_b ctx endings label',
  (
    1,
    'Making a cake',
    'Several cake pops are shown on a display. A woman and girl are shown making the '
    'cake pops in a kitchen.',
    'they',
    '',
    [
      'bake them, then frost and decorate.',
      'taste them as they place them on plates.',
      'put the frosting on the cake as they pan it.',
      'come out and begin decorating the cake as well.',
    ],
    0,
  ),
  (
    2,
    'Home and Garden',
    'How to sweep a floor [title] Take a broom [step] Hold it.',
    '',
    '',
    ['[substeps] Sweep.', 'Sing.', 'Sleep.', 'Swim.'],
    0,
  ),
  (3, 'Rowing', 'A man sits in a boat.', 'he', '', ['flies.', 'rows.', 'x.', 'y.'], 1),
)
_STORIES = """InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,\
RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,AnswerRightEnding
"""
_STORY_TEST = _STORIES + (
  'a1,Bob went to the gas station to fill up his car.,His tank '
  'was completely empty and '
  'so was his wallet.,The cashier offered to pay for his gas if he came back later to '
  'pay.,Bob felt grateful as he drove home.,Bob believed that '
  'there were good people in '
  'the world.,Bob contemplated how unfriendly the world was.,1\n'
)
_STORY_DEV = _STORIES + (
  'b1,Ann had a cold.,She stayed in bed.,Her mother made soup.,She slept well.,'
  'Ann ran a race.,Ann felt better.,2\n'
  'b2,"Tom, a baker, rose early.",He lit the oven.,He made bread.,A queue formed.,'
  'Tom sold it all.,Tom hated bread.,1\n'
)
_PIQA = _rows(
  'goal sol1 sol2',
  (
    'How to apply sealant to wood.',
    'Using a brush, brush on sealant onto wood until it is fully saturated with the '
    'sealant.',
    'Using a brush, drip on sealant onto wood until it is fully saturated with the '
    'sealant.',
  ),
  ('To boil an egg', 'put it in the freezer', 'put it in hot water'),
  ('ladle', 'serves soup', 'saws wood'),
)


def _arc(*rows: tuple) -> list[dict]:
  return [
    {
      'id': f'q{i}',
      'question': {
        'stem': stem,
        'choices': [
          {'text': text, 'label': label}
          for text, label in zip(texts, 'ABCD', strict=True)
        ],
      },
      'answerKey': key,
    }
    for i, (stem, texts, key) in enumerate(rows)
  ]


_SKY = ('What color is the sky?', ('red', 'green', 'blue', 'black'), 'C')
_ICE = ('What is ice made of?', ('water', 'sand', 'wood', 'iron'), 'A')
_ARC_EASY = _arc(
  (
    'Which factor will most likely cause a person to develop a fever?',
    (
      'a leg muscle relaxing after exercise',
      'a bacterial population in the bloodstream',
      'several viral particles on the skin',
      'carbohydrates being digested in the stomach',
    ),
    'B',
  ),
  _SKY,
  _ICE,
)
_ARC_CHALLENGE = _arc(
  (
    'George wants to warm his hands quickly by rubbing them. Which skin surface will '
    'produce the most heat?',
    ('dry palms', 'wet palms', 'palms covered with oil', 'palms covered with lotion'),
    'A',
  ),
  _SKY,
  _ICE,
)
_OPENBOOKQA = _arc(
  (
    'Organisms require energy in order to do what?',
    ('mature and develop.', 'rest soundly.', 'absorb light.', 'take in nutrients.'),
    'A',
  ),
  ('Birds', ('fly', 'bark', 'moo', 'code'), 'A'),
  _SKY,
)
_SCIQ = _rows(
  'question distractor1 distractor2 distractor3 correct_answer support',
  ('What do plants take in?', 'iron', 'gold', 'neon', 'carbon dioxide', 'Plants live.'),
  ('Who found radium?', 'Bohr', 'Dirac', 'Hertz', 'Curie', ''),
  ('What boils at 100 degrees?', 'iron', 'gold', 'lead', 'water', 'Water boils.'),
)
_COPA = _rows(
  'premise choice1 choice2 question label idx',
  (
    'My body cast a shadow over the grass.',
    'The sun was rising.',
    'The grass was cut.',
    'cause',
    0,
    0,
  ),
  ('The man fell.', 'He flew.', 'I helped him up.', 'effect', 1, 1),
  ('The ice melted.', 'It was warm.', 'It was cold.', 'cause', 0, 2),
)
_RTE = _rows(
  'premise hypothesis label idx',
  (
    'The bet, which won him dinner for four, was regarding the '
    'existence and mass of the '
    'top quark, an elementary particle discovered in 1995.',
    'The Top Quark is the last of six flavors of quarks '
    'predicted by the standard model '
    'theory of particle physics.',
    'not_entailment',
    0,
  ),
  ('A dog ran home.', 'An animal ran.', 'entailment', 1),
  ('A dog sat.', 'A cat sat.', 'not_entailment', 2),
)
_CB = _rows(
  'premise hypothesis label idx',
  (
    "Certainly, the recent drop in prices doesn't mean Manhattan comes cheap.",
    'Manhattan comes cheap',
    'contradiction',
    0,
  ),
  ('I know that it rains.', 'it rains', 'entailment', 1),
  ('Does it rain?', 'it rains', 'neutral', 2),
)
_BOOLQ = _rows(
  'question passage idx label',
  (
    'is the normal force equal to the force of gravity',
    'Normal force -- In a simple case such as an object resting '
    'upon a table, the normal '
    'force on the object is equal but in opposite direction to '
    'the gravitational force.',
    0,
    True,
  ),
  ('is ice hot', 'Ice -- Ice is frozen water.', 1, False),
  ('do birds fly', 'Bird -- Most birds fly.', 2, True),
)
_WIC = _rows(
  'word sentence1 sentence2 idx label start1 start2 end1 end2 version',
  (
    'outfitter',
    'An outfitter provided everything needed for the safari.',
    'Before his first walking holiday, he went to a specialist outfitter to buy some '
    'boots.',
    0,
    False,
    3,
    62,
    12,
    71,
    1.1,
  ),
  ('bank', 'The bank of the river.', 'A bank lends money.', 1, False, 4, 2, 8, 6, 1.1),
  ('run', 'They run home.', 'Dogs run fast.', 2, True, 5, 5, 8, 8, 1.1),
)


def _wsc(text: str, noun: str, pronoun: str, index: int, label: bool) -> dict:
  target = {'span1_index': 0, 'span1_text': noun}
  return {
    'text': text,
    'target': target | {'span2_index': index, 'span2_text': pronoun},
    'label': label,
    'idx': 0,
  }


_WSC = [
  _wsc(
    "Mr. Moncrieff visited Chester's luxurious New York apartment, thinking that it "
    'belonged to his son Edward. The result was that Mr. '
    'Moncrieff has decided to cancel '
    "Edward's allowance on the ground that he no longer requires "
    'his financial support.',
    'mr. moncrieff',
    'his',
    37,
    True,
  ),
  _wsc('Mark told Pete lies, and he was cross.', 'Pete', 'he', 5, True),
  _wsc('Mark told Pete lies, and he was proud.', 'Pete', 'he', 5, False),
  _wsc('The cup fell on the plate, and Ann swept it. up', 'The cup', 'it', 9, True),
]


def _multirc(passage: str, *questions: tuple) -> dict:
  return {
    'idx': passage[:3],
    'passage': {
      'text': passage,
      'questions': [
        {
          'question': question,
          'answers': [
            {'text': text, 'idx': i, 'label': label}
            for i, (text, label) in enumerate(answers)
          ],
          'idx': 0,
        }
        for question, *answers in questions
      ],
    },
  }


_MULTIRC = [
  _multirc(
    'President Clinton was scheduled to travel to India. The '
    'State Department felt that '
    'he should not visit India without also visiting Pakistan.',
    (
      'Who did The State Department feel should visit both India and Pakistan?',
      ('Bin Laden', 0),
      ('Clinton', 1),
    ),
  ),
  _multirc('Ann has a dog.', ('Who has a dog?', ('Ann', 1), ('Bob', 0))),
  _multirc('Bob sold two red hats.', ('What was sold?', ('red hats', 1))),
]


def _record(text: str, entities: list[str], query: str, answers: list[str]) -> dict:
  return {
    'source': 'CNN',
    'passage': {'text': text, 'entities': [_span(text, each) for each in entities]},
    'qas': [
      {
        'query': query,
        'answers': [_span(text, a) | {'text': a} for a in answers],
        'idx': 0,
      }
    ],
    'idx': len(text),
  }


_RECORD = [
  _record(
    'Yuval Rabin criticized Donald Trump. Trump spoke of Hillary '
    'Clinton.\n@highlight\n\n'
    'The son of a former Israeli Prime Minister wrote an op ed.\n@highlight\n\n'
    'Warns of "parallels" between Israel of the 1990s and the U.S. today.',
    ['Donald Trump', 'Hillary Clinton', 'U.S.'],
    "Rabin condemned @placeholder's aggressive rhetoric.",
    ['Donald Trump'],
  ),
  _record(
    'Ann met Bob in Rome.\n@highlight\n\nAnn was glad.',
    ['Ann', 'Bob'],
    '@placeholder was in Rome to see Bob.',
    ['Ann'],
  ),
  _record(
    'Paris is in France.', ['Paris', 'France'], 'It is @placeholder.', ['France']
  ),
]


def _anli(number: int) -> dict[str, str]:
  names = 'uid context hypothesis label reason'
  first = {
    1: ('MacGregor is a politician.', 'MacGregor has a best friend.', 'n'),
    2: ('The Gold Coast Hotel & Casino.', 'The Gold Coast is a budget-friendly casino.')
    + ('n',),
    3: ('We shut the loophole.', 'The loophole is now gone', 'c'),
  }[number]
  rows = _rows(
    names,
    ('u0', *first, ''),
    ('u1', 'It rains in Rome.', 'It is wet in Rome.', 'e', ''),
    ('u2', 'It is noon.', 'It is midnight.', 'c', ''),
  )
  return _same('train.jsonl', 'test.jsonl', rows)


def _schema(before: str, pronoun: str, after: str, options: tuple, key: str) -> str:
  answers = ''.join(f'<answer>{each}</answer>' for each in options)
  return (
    f'<schema><text><txt1>{before}</txt1><pron>{pronoun}</pron><txt2>{after}</txt2>'
    f'</text><answers>{answers}</answers><correctAnswer>{key}</correctAnswer></schema>\n'
  )


_WINOGRAD = (
  '<?xml version="1.0"?>\n<collection>\n'
  + _schema(
    'Grace was happy to trade me her sweater for my jacket. She thinks',
    'it',
    'looks dowdy on her.',
    ('The sweater', 'The jacket'),
    'A',
  )
  + _schema('Ann thanked Sue for the help', 'she', 'gave.', ('Ann', 'Sue'), 'B.')
  + _schema('The man saw the boy.', 'His', 'hat fell.', ('The man', 'The boy'), 'A')
  + '</collection>\n'
)
_WINOGRANDE = _rows(
  'qID sentence option1 option2 answer',
  (
    'q1',
    'Johnny likes fruits more than vegetables in his new keto diet because the _ are '
    'saccharine.',
    'fruits',
    'vegetables',
    '1',
  ),
  ('q2', "Ann called Sue, as _'s car was stolen.", 'Ann', 'Sue', '1'),
  ('q3', '_ won, so Sue lost.', 'Sue', 'Ann', '2'),
)


def _race(article: str, *questions: tuple) -> str:
  asked, options, answers = zip(*questions, strict=True)
  return json.dumps(
    {
      'article': article,
      'questions': asked,
      'options': options,
      'answers': answers,
      'id': article[:4],
    }
  )


_MIDDLE = _race(
  'Mrs. Smith is an unusual teacher.',
  (
    'We can learn from the passage that we should _ .',
    ['throw away the hatred inside', 'b', 'c', 'd'],
    'A',
  ),
  (
    'Mrs. Smith asked her students to write _ on the potatoes.',
    ['names', 'numbers', 'time', 'places'],
    'A',
  ),
)
_HIGH = _race(
  'Informal conversation is an important part of any business relationship.',
  (
    'Which is typically a friendly topic in most places according to the author?',
    ['Sports.', 'b', 'c', 'd'],
    'A',
  ),
  (
    'The author considers politics and religion _ .',
    [
      'cheerful topics',
      'taboo',
      'rude topics',
      'topics that can never be talked about',
    ],
    'B',
  ),
)


def _level(level: str) -> dict[str, str]:
  return {
    f'RACE/test/{level}/1.txt': _MIDDLE if level == 'middle' else _HIGH,
    f'RACE/train/{level}/2.txt': _race(
      'Ann is ten.', ('How old is Ann?', ['9', '10', '11', '12'], 'B')
    ),
    f'RACE/train/{level}/3.txt': _race(
      'Bob lives in Rome.', ('Where is Bob?', ['Oslo', 'Bonn', 'Rome', 'Bern'], 'C')
    ),
  }


def _mctest(story: str, question: str) -> str:
  asked = [question, 'multiple: Is it good?', 'one: Is it bad?', 'one: Is it ugly?']
  cells = [cell for each in asked for cell in (each, 'one', 'two', 'three', 'four')]
  return '\t'.join([story[:4], 'Author: x', story, *cells]) + '\n'


def _cbt(*questions: tuple) -> str:
  story = 'It was old .'
  lines = ''
  for question, answer, options in questions:
    lines += ''.join(f'{i} {story}\n' for i in range(1, 21))
    lines += f'21 {question}\t{answer}\t\t{"|".join(options)}\n\n'
  return lines


_TEN = 'dog cat king queen horse tree house child ship road'.split()
_CBT = _cbt(
  ("`` I do n't see the XXXXX , '' said Ann .", 'dog', _TEN),
  ('XXXXX came home .', 'child', _TEN),
)
_CBT_TRAIN = _cbt(
  ('The XXXXX was old .', 'dog', _TEN),
  ('It was an old XXXXX .', 'horse', _TEN),
)
_SAT = """# SAT package
190 FROM REAL SATs
lull trust v:n
balk fortitude v:n
betray loyalty v:n
cajole compliance v:n
hinder destination v:n
soothe passion v:n
c

ML
dog puppy n:n
cat kitten n:n
cow milk n:n
bird wing n:n
fish sea n:n
bee hive n:n
a

ML
hot cold a:a
wet rain a:n
big small a:a
red rose a:n
far road a:n
old man a:n
b
"""
_NQ = _rows(
  'question answer',
  ('who played tess on touched by an angel', ['Della Reese']),
  ('where is rome', ['Italy', 'in Italy']),
  ('when was the war?', ['1914']),
)


def _trivia(*rows: tuple) -> str:
  return json.dumps(
    {
      'Data': [
        {
          'Question': question,
          'QuestionId': f't{i}',
          'Answer': {'Value': value, 'Aliases': aliases, 'NormalizedAliases': []},
        }
        for i, (question, value, aliases) in enumerate(rows)
      ]
    }
  )


_NUDE = (
  "'Nude Descending A Staircase' is perhaps the most famous painting by which 20th "
  'century artist?'
)


def _web(*rows: tuple) -> str:
  return json.dumps(
    [
      {'url': '', 'targetValue': f'(list {listed})', 'utterance': question}
      for question, listed in rows
    ]
  )


def _coqa(*stories: tuple) -> str:
  return json.dumps(
    {
      'data': [
        {
          'id': f's{i}',
          'story': story,
          'questions': [
            {'input_text': q, 'turn_id': n} for n, (q, *_) in enumerate(turns, 1)
          ],
          'answers': [
            {'input_text': a, 'span_text': a, 'turn_id': n}
            for n, (_, a, *_) in enumerate(turns, 1)
          ],
          'additional_answers': {
            '0': [
              {'input_text': more[0], 'span_text': '', 'turn_id': n}
              for n, (_, _, *more) in enumerate(turns, 1)
              if more
            ]
          }
          if len(turns[0]) > 2
          else {},
        }
        for i, (story, *turns) in enumerate(stories)
      ]
    }
  )


def _quac(*sections: tuple) -> str:
  return json.dumps(
    {
      'data': [
        {
          'title': title,
          'section_title': section,
          'paragraphs': [
            {
              'context': f'{context} CANNOTANSWER',
              'id': title,
              'qas': [
                {'question': q, 'answers': [{'text': a, 'answer_start': 0}], 'id': q}
                for q, a in turns
              ],
            }
          ],
        }
        for title, section, context, *turns in sections
      ]
    }
  )


def _squad(*articles: tuple) -> str:
  return json.dumps(
    {
      'version': 'v2.0',
      'data': [
        {
          'title': title,
          'paragraphs': [
            {
              'context': context,
              'qas': [
                {
                  'question': question,
                  'id': f'{title}:{i}',
                  'answers': [{'text': a, 'answer_start': 0} for a in answers],
                  'is_impossible': not answers,
                }
                for i, (question, *answers) in enumerate(questions)
              ],
            }
          ],
        }
        for title, context, *questions in articles
      ],
    }
  )


def _drop(**passages: tuple) -> str:
  none = {'number': '', 'date': {'day': '', 'month': '', 'year': ''}, 'spans': []}
  return json.dumps(
    {
      key: {
        'passage': passage,
        'qa_pairs': [
          {'question': question, 'answer': none | answer, 'query_id': f'{key}-q'}
        ],
      }
      for key, (passage, question, answer) in passages.items()
    }
  )


_KEINESFALLS = (
  'Keinesfalls dürfen diese für den kommerziellen Gebrauch verwendet werden.'
)
_NO_CASE = 'In no case may they be used for commercial purposes.'


def _wmt(language: str, first: str, other: tuple[str, str, str]) -> dict[str, str]:
  english = first, 'The house is old.', 'The dog sleeps.'
  rows = [
    {'translation': {'en': a, language: b}} for a, b in zip(english, other, strict=True)
  ]
  return _same('train.jsonl', 'test.jsonl', rows)


_SYNTHETIC = {
  'two_digit_addition': [('\n\nQ: What is 98 plus 45?\n\nA:', ' 143')],
  'two_digit_subtraction': [('\n\nQ: What is 17 minus 14?\n\nA:', ' 3')],
  'two_digit_multiplication': [('\n\nQ: What is 95 times 45?\n\nA:', ' 4275')],
  'single_digit_three_ops': [('\n\nQ: What is (2 * 4) * 6?\n\nA:', ' 48')],
  'sum_of_digits': [
    ('\n\nQ: What is the sum of the digits of the number 8606?\n\nA:', ' 20')
  ],
  'cycle_letters_in_word': [('\nasinoc =', ' casino')],
  'mid_word_1_anagrams': [('\nskicts =', ' sticks')],
  'mid_word_2_anagrams': [('\nvolwskagen =', ' volkswagen')],
  'random_insertion_in_word': [('\nr e!c.i p r o.c a/l =', ' reciprocal')],
  'reversed_words': [('\ntaefed =', ' defeat')],
}
for _digits, _sum, _difference in (
  ('three', (556, 497), (509, 488)),
  ('four', (9923, 617), (6209, 3365)),
  ('five', (65360, 16204), (40649, 78746)),
  ('six', (893470, 970472), (893470, 970472)),
):
  for _kind, _word, (_a, _b) in (
    ('addition', 'plus', _sum),
    ('subtraction', 'minus', _difference),
  ):
    _value = _a + _b if _word == 'plus' else _a - _b
    _SYNTHETIC[f'{_digits}_digit_{_kind}'] = [
      (f'\n\nQ: What is {_a} {_word} {_b}?\n\nA:', f' {_value}')
    ]


def _synthetic(first: tuple[str, str]) -> str:
  scrambled = first[0].endswith('=')
  more = [
    (f'\n{a} =', f' {b}') if scrambled else (f'\n\nQ: What is {a}?\n\nA:', f' {b}')
    for a, b in (('xx', 'xy'), ('zz', 'zy'))
  ]
  return _lines(
    *({'context': context, 'completion': end} for context, end in (first, *more))
  )


def files() -> dict[str, str]:
  """Returns the text of every file by its path in a folder of data."""
  folders = {
    'copa': _super_glue(_COPA[1:], _COPA[:1]),
    'rte': _super_glue(_RTE[1:], _RTE[:1]),
    'cb': _super_glue(_CB[1:], _CB[:1]),
    'boolq': _super_glue(_BOOLQ[1:], _BOOLQ[:1]),
    'wic': _super_glue(_WIC[1:], _WIC[:1]),
    'wsc': _super_glue(_WSC[1:], _WSC[:1]),
    'multirc': _super_glue(_MULTIRC[1:], _MULTIRC[:1]),
    'record': _super_glue(_RECORD[1:], _RECORD[:1]),
    **{f'anli_v1.0/R{n}': _anli(n) for n in (1, 2, 3)},
    'lambada': {
      'lambada_test.jsonl': _lines({'text': _LAMBADA[0]}),
      'lambada_development.jsonl': _lines(*({'text': each} for each in _LAMBADA[1:])),
    },
    'hellaswag': _same('hellaswag_train.jsonl', 'hellaswag_val.jsonl', _HELLASWAG),
    'storycloze': {
      'cloze_test_test__spring2016.csv': _STORY_TEST,
      'cloze_test_val__spring2016.csv': _STORY_DEV,
    },
    'piqa': _same('train.jsonl', 'valid.jsonl', _PIQA)
    | {'train-labels.lst': '1\n0\n', 'valid-labels.lst': '0\n'},
    'arc_easy': _same('ARC-Easy-Train.jsonl', 'ARC-Easy-Test.jsonl', _ARC_EASY),
    'arc_challenge': _same(
      'ARC-Challenge-Train.jsonl', 'ARC-Challenge-Test.jsonl', _ARC_CHALLENGE
    ),
    'openbookqa': _same('train.jsonl', 'test.jsonl', _OPENBOOKQA),
    'sciq': _same('train.jsonl', 'test.jsonl', _SCIQ),
    'winograd': {'WSCollection.xml': _WINOGRAD},
    'winogrande': _same('train_xl.jsonl', 'dev.jsonl', _WINOGRANDE),
    'mctest': {
      'mc500.test.tsv': _mctest('Ann ran.\\newlineShe won.', 'one: What did Ann do?'),
      'mc500.test.ans': 'A\tB\tC\tD\n',
      'mc500.train.tsv': _mctest('Bob sat.', 'one: What did Bob do?')
      + _mctest('Cat sat.', 'one: What did the cat do?'),
      'mc500.train.ans': 'D\tC\tB\tA\nB\tB\tB\tB\n',
    },
    'CBTest/data': {
      f'cbtest_{kind}_{part}.txt': text
      for kind in ('CN', 'NE')
      for part, text in (('train', _CBT_TRAIN), ('valid_2000ex', _CBT))
    },
    'sat': {'SAT-package-V3.txt': _SAT},
    'nq_open': _same('NQ-open.train.jsonl', 'NQ-open.dev.jsonl', _NQ),
    'triviaqa': {
      'unfiltered-web-dev.json': _trivia(
        (_NUDE, 'Marcel Duchamp', ['MARCEL DUCHAMP', 'Duchamp'])
      ),
      'unfiltered-web-train.json': _trivia(
        ('Where is Rome?', 'Italy', ['Italia']), ('How many legs has a dog?', '4', [])
      ),
    },
    'webquestions': {
      'webquestions.examples.test.json': _web(
        (
          'what school did burne hogarth establish?',
          '(description "School of Visual Arts")',
        )
      ),
      'webquestions.examples.train.json': _web(
        ('where is rome?', '(description Italy) (description "Lazio \\"region\\"")'),
        ('who is ann?', '(description "Ann B")'),
      ),
    },
    'coqa': {
      'coqa-dev-v1.0.json': _coqa(
        (
          'Helsinki is the capital and largest city of Finland.',
          (
            'what is the most populous municipality in Finland?',
            'Helsinki',
            'helsinki.',
          ),
          ('how many people live there?', '1.4 million', 'the 1.4 million'),
        )
      ),
      'coqa-train-v1.0.json': _coqa(
        ('Ann has a dog.', ('What has she?', 'a dog')),
        ('Bob has a cat.', ('What has he?', 'a cat')),
      ),
    },
    'quac': {
      'val_v0.2.json': _quac(
        (
          'William Perry (American football)',
          'Professional career',
          'In 1985, he was selected in the first round of the 1985 NFL Draft by the '
          'Chicago Bears.',
          ('what team did he play for?', 'the Chicago Bears'),
          ('when?', 'In 1985'),
        )
      ),
      'train_v0.2.json': _quac(
        ('Ann', 'Life', 'Ann was born.', ('who?', 'Ann')),
        ('Bob', 'Work', 'Bob was a cook.', ('what?', 'CANNOTANSWER')),
      ),
    },
    'squad_v2': {
      'dev-v2.0.json': _squad(
        (
          'The_Blitz',
          'From the German point of view, March 1941 saw an improvement. The Luftwaffe '
          'flew 4,000 sorties that month.',
          ('How many sorties were flown in March 1941?', '4,000'),
          ('When did the Luftwaffe fly inland missions?', 'only on moonlit nights'),
        )
      ),
      'train-v2.0.json': _squad(
        ('Ann', 'Ann is ten.', ('How old is Ann?', 'ten')),
        ('Bob', 'Bob is a cook.', ('How old is Bob?',)),
      ),
    },
    'drop': {
      'drop_dataset_dev.json': _drop(
        a=(
          'Saint Jean de Brébeuf travelled to New France in 1625, '
          'except for a few years '
          'in France from 1629 to 1633.',
          'How many years did Saint Jean de Brébeuf stay in New France before he went '
          'back to France for a few years?',
          {'number': '4'},
        )
      ),
      'drop_dataset_train.json': _drop(
        b=('Ann and Bob won.', 'Who won?', {'spans': ['Ann', 'Bob']}),
        c=(
          'It was on 4 May 1999.',
          'When?',
          {'date': {'day': '4', 'month': 'May', 'year': '1999'}},
        ),
      ),
    },
    'wmt14_fr_en': _wmt(
      'fr',
      'males were in more advanced instars than females.',
      (
        'les larves mâles étaient à des stades plus avancés que les larves femelles.',
        'La maison est vieille.',
        'Le chien dort.',
      ),
    ),
    'wmt16_de_en': _wmt(
      'de', _NO_CASE, (_KEINESFALLS, 'Das Haus ist alt.', 'Der Hund schläft.')
    ),
    'wmt16_ro_en': _wmt(
      'ro',
      'the democratic reforms are at a standstill.',
      (
        'reformele democratice au ajuns într-un punct mort.',
        'Casa este veche.',
        'Câinele doarme.',
      ),
    ),
    'cnn_dm': _same(
      'train.jsonl',
      'test.jsonl',
      _rows(
        'article highlights id',
        ('It rained. It poured.', 'It rained a lot .\nAll got wet .', 'x'),
        ('The sun shone.', 'It was fine .', 'y'),
        ('Snow fell.', 'It was cold .', 'z'),
      ),
    ),
    'gpt3_synthetic': {
      f'{name}.jsonl': _synthetic(rows[0]) for name, rows in _SYNTHETIC.items()
    },
  }
  found = {
    f'{f}/{name}': text for f, each in folders.items() for name, text in each.items()
  }
  for level in ('middle', 'high'):
    found |= _level(level)
  return found


def write(folder: Path) -> Path:
  """Writes all files, the scrambles packed as they are released; returns the folder."""
  for name, text in files().items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if text.startswith('{"context": "\\n') and ' =' in text:
      path.with_name(f'{path.name}.gz').write_bytes(gzip.compress(text.encode()))
    else:
      path.write_text(text, encoding='utf-8')
  return folder


def prompts(data: Path) -> dict[str, dict]:
  """Returns by task what is read before a question at K = 0, 1, 2, and its answers."""
  found = {}
  for name, task in TASKS.items():
    questions = task_files.read(task, data)
    number = len(questions) - 1 if task.examples == 'train' else 0
    one, pool = questions[number], task_files.examples(task, data)
    found[name] = {
      f'K={shots}': prompt(task, one, draw(task, pool, one, number, shots))
      for shots in (0, 1, 2)
    } | {'answers': one.answers, 'gold': one.gold, 'completion': one.completion}
  return json.loads(json.dumps(found))


if __name__ == '__main__':
  with tempfile.TemporaryDirectory() as _folder:
    _text = json.dumps(prompts(write(Path(_folder))), indent=1, ensure_ascii=False)
  GOLDEN.write_text(f'{_text}\n', encoding='utf-8')
