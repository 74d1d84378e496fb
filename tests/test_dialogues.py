"""Files of dialogues, and the release's examples, token by token.

Ids of the worked examples: a turn is as many letters as tokens, END is 0. Each wanted
row was worked out by hand from the release's prepro.py: ids, then targets where they
have a weight (its -1 is `.` here), without the padding to 8.
"""

import json

import pytest

from gpt_jax.config import UserError
from gpt_jax.tasks import dialogues
from gpt_jax.tasks.dialogues import Turn

END = 0


def made(text: str, longest: int = 8) -> list[tuple[str, str]]:
  """Returns the examples of turns like `ab cd/0`, each as (ids, targets)."""
  turns = []
  for turn in text.split():
    letters, _, weight = turn.partition('/')
    turns.append(([ord(letter) for letter in letters], float(weight or 1)))
  rows = dialogues.examples(turns, END, longest)
  return [
    (
      ''.join(chr(token) if token else '_' for token in row.ids),
      ''.join(
        (chr(token) if token else '_') if weight else '.'
        for token, weight in zip(row.targets, row.weights, strict=True)
      ),
    )
    for row in rows
  ]


@pytest.mark.parametrize(
  'turns, wanted',
  [
    # no loss on the first turn; the first target stands after its end
    ('ab cd', [('ab_cd', '..cd_')]),
    ('ab cd ef', [('ab_cd_ef', '..cd_ef_')]),
    # one turn has nothing to learn
    ('ab', []),
    ('', []),
    # a turn of weight 0 is read and not learned; at the end it is not read
    ('ab cd/0 ef', [('ab_cd_ef', '.....ef_')]),
    ('ab cd ef/0', [('ab_cd', '..cd_')]),
    ('ab cd ef/0 gh/0', [('ab_cd', '..cd_')]),
    ('ab/0 cd', [('ab_cd', '..cd_')]),
    # all of weight 0
    ('ab cd/0 ef/0', []),
    ('ab cd/0', []),
    # over 8 tokens (with ends) before a turn is added: the example ends, the next one
    # begins with its last turn; 3 + 3 + 3 = 9
    ('ab cd ef gh', [('ab_cd_ef', '..cd_ef_'), ('ef_gh', '..gh_')]),
    # 4 + 4 = 8 are not over 8: the check precedes the addition, so 12 stay together
    ('abc def ghi', [('abc_def_ghi', '...def_ghi_')]),
    (
      'abc def ghi jkl',
      [('abc_def_ghi', '...def_ghi_'), ('ghi_jkl', '...jkl_')],
    ),
    # a turn of 8 is no longer than 8, with its end it is: alone it is no example
    ('abcdefgh ij', [('abcdefgh_ij', '........ij_')]),
    ('abcdefgh ij kl', [('abcdefgh_ij', '........ij_'), ('ij_kl', '..kl_')]),
    (
      'ab cdefghij kl',
      [('ab_cdefghij', '..cdefghij_'), ('cdefghij_kl', '........kl_')],
    ),
    # a turn of 9 is left out, with what stands before it cut off
    ('ab cd efghijklm no pq', [('ab_cd', '..cd_'), ('no_pq', '..pq_')]),
    ('ab efghijklm no', []),
    ('efghijklm no pq', [('no_pq', '..pq_')]),
    ('ab cd efghijklm', [('ab_cd', '..cd_')]),
    # of the two parts the second has no loss
    ('abc def ghi jkl/0', [('abc_def_ghi', '...def_ghi_')]),
    # the first has none, as its turns weigh 0
    ('abc def/0 ghi/0 jkl', [('ghi_jkl', '...jkl_')]),
  ],
)
def test_examples_are_the_releases(turns, wanted):
  assert made(turns) == wanted


def test_a_backward_model_reads_the_turns_from_last_to_first():
  turns = [Turn('a'), Turn('b', 0.0), Turn('c')]
  assert dialogues.reverse(turns) == [Turn('c'), Turn('b', 0.0), Turn('a')]
  # the release leaves a target of weight 0 out before it reverses
  assert dialogues.reverse([Turn('a'), Turn('b'), Turn('c', 0.0)]) == [
    Turn('b'),
    Turn('a'),
  ]
  # and a source's first turn of weight 0, which is last now, has no loss
  assert made('ef cd ab/0') == [('ef_cd', '..cd_')]


def test_tsv_has_turns_and_weights(tmp_path):
  path = tmp_path / 'a.tsv'
  path.write_text('0.0 hello  there EOS 1.0 hi\t25 , you ?\r\nAEOS B\t1 apple\n')
  assert list(dialogues.read(path)) == [
    [Turn('hello there', 0.0), Turn('hi'), Turn('25 , you ?')],
    [Turn('AEOS B'), Turn('1 apple')],
  ]


def test_transcripts_are_cut_at_empty_lines(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('\ufeff- Hi.\n- Hello - you!\n\n\n \nOne\nTwo', encoding='utf-8')
  assert list(dialogues.read(path)) == [
    [Turn('Hi.'), Turn('Hello - you!')],
    [Turn('One'), Turn('Two')],
  ]


def test_json_lines_come_back_as_written(tmp_path):
  path = tmp_path / 'a.jsonl'
  turns = [Turn('Привет:\nдва', 0.0), Turn('b')]
  spoken = {'dialogue': '#Person1#: Hi: you\n\n#Person2#: 5:30 it is\nno speaker: x'}
  path.write_text(dialogues.to_json(turns) + '\n\n' + json.dumps(spoken) + '\n')
  assert list(dialogues.read(path)) == [
    turns,
    [Turn('Hi: you'), Turn('5:30 it is'), Turn('no speaker: x')],
  ]


@pytest.mark.parametrize(
  'name, text, message',
  [
    ('a.tsv', 'a\tb\nc\n', 'a.tsv: line 2 must have one tab'),
    ('a.tsv', 'a\tb\tc\n', 'line 1 must have one tab'),
    ('a.tsv', 'a EOS  EOS b\tc\n', 'line 1 has an empty turn'),
    ('a.tsv', 'a\t1.0\n', 'line 1 has an empty turn'),
    ('a.jsonl', '{"turns": ["a", ""]}\n', 'line 1 has an empty turn'),
    ('a.jsonl', '{"turn": []}\n', "lacks 'turns'"),
    ('a.jsonl', '{"turns": [3]}\n', 'a turn is 3 instead of'),
    ('a.jsonl', '{"turns": [{"text": "a", "weight": "x"}]}\n', 'weight is'),
    ('a.csv', '', 'its name must end in .tsv, .jsonl, .txt'),
  ],
)
def test_a_line_that_is_no_dialogue_is_named(tmp_path, name, text, message):
  (tmp_path / name).write_text(text)
  with pytest.raises(UserError, match=message):
    list(dialogues.read(tmp_path / name))


def test_the_releases_dummy_file_is_read_whole(shared_data):
  path = shared_data / 'dialogue/dialogpt_dummy.tsv'
  read = list(dialogues.read(path))
  assert len(read) == 10_000
  assert sum(len(turns) for turns in read) == 20_000
  assert all(turn.weight == 1 for turns in read for turn in turns)
