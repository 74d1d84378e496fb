"""Comments of Reddit: paths by brute force; each filter on a comment made for it."""

import random

import pytest

from gpt_jax.config import UserError
from gpt_jax.tasks import reddit
from gpt_jax.tasks.reddit import Comment, Report, Settings


def tree(*rows: str, score: int = 1) -> list[Comment]:
  """Returns comments of rows like `b a: the text`: its letter, its parent's, text."""
  comments = []
  for row in rows:
    names, _, text = row.partition(': ')
    name, parent = names.split()
    parent = 't3_s' if parent == 's' else f't1_{parent}'
    comments.append(Comment(f't1_{name}', parent, 't3_s', text, score))
  return comments


def kept(comments, report=None, **settings):
  report = Report() if report is None else report
  settings = Settings(**{'cleaning': 'paper', **settings})
  return [
    [turn.text for turn in turns]
    for turns in reddit.extract(comments, settings, report)
  ]


PAIR = 'how are you today', 'i am fine thank you'


def pair(reply: str, first: str = PAIR[0]) -> list[Comment]:
  return tree(f'a s: {first}', f'b a: {reply}')


def test_every_leaf_has_a_path_from_the_first_comment():
  comments = tree(
    'a s: one of it', 'b a: two of it', 'c b: three of it', 'd a: four of it',
    'e s: five of it',
  )  # fmt: skip
  report = Report()
  assert kept(comments, report) == [
    ['one of it', 'four of it'],
    ['one of it', 'two of it', 'three of it'],
  ]
  assert report.counts == {'kept': 2, 'few turns': 1}
  assert report.examples['few turns'] == ['five of it']


@pytest.mark.parametrize('seed', range(5))
def test_paths_of_random_trees_by_brute_force(seed):
  draw = random.Random(seed)
  parents = {f'c{i}': f'c{draw.randrange(i)}' if i else 's' for i in range(30)}
  texts = {name: 'of it ' * draw.choice([1, 1, 1, 3]) for name in parents}
  comments = tree(*(f'{name} {parents[name]}: {texts[name]}' for name in parents))
  found = {
    tuple(each.id[3:] for each in path)
    for path in reddit.paths(comments, Settings(words=4, most=5))
  }
  wanted = set()
  for leaf in set(parents) - set(parents.values()):
    path = []
    while leaf != 's' and len(texts[leaf].split()) <= 4 and len(path) < 5:
      path.insert(0, leaf)
      leaf = parents[leaf]
    wanted.add(tuple(path))
  assert found == wanted
  assert len({len(path) for path in found}) > 2


def test_a_comment_that_is_not_there_begins_a_path():
  assert kept(tree('b a: two of it', 'c b: three of it')) == [
    ['two of it', 'three of it']
  ]


@pytest.mark.parametrize(
  'cleaning, reply, reason',
  [
    ('paper', 'look at https://a.b it is', 'address'),
    ('paper', 'that is that and that', 'repeated word'),
    ('paper', 'hahaha lol', 'no frequent word'),
    ('paper', 'it is [here]', 'brackets'),
    ('paper', 'it is (here)', 'kept'),
    ('paper', 'it is the baddest word', 'kept'),
    ('paper', 'it is the bad word, yes', 'blocked phrase'),
    ('release', 'look at HTTPS://a.b it is', 'address'),
    ('release', 'that is that and that', 'kept'),
    ('release', 'no no no never', 'repeated word'),
    ('release', 'hahaha lol', 'kept'),
    ('release', 'it is (here)', 'brackets'),
    ('release', 'it is HERES my', 'capitals'),
    ('release', 'it is HERE my', 'kept'),
    ('release', '#tag #other', 'empty reply'),
    ('release', 'it is ' + 'a' * 31, 'long word'),
    ('release', 'it is ' + 'a' * 30, 'kept'),
  ],
)
def test_each_filter_has_its_reply(cleaning, reply, reason):
  if cleaning == 'release':
    pytest.importorskip('nltk')
  report = Report()
  blocked = frozenset(['bad word'])
  kept(pair(reply), report, cleaning=cleaning, blocked=blocked)
  assert report.counts == {reason: 1}


@pytest.mark.parametrize('cleaning', ['paper', 'release'])
@pytest.mark.parametrize('words, reason', [(200, 'kept'), (201, 'many words')])
def test_200_words_are_not_too_many(cleaning, words, reason):
  if cleaning == 'release':
    pytest.importorskip('nltk')
  report = Report()
  kept(pair('so it is', 'the ' * (words - 3)), report, cleaning=cleaning, words=300)
  assert report.counts == {reason: 1}


def test_a_low_score_and_long_turns_are_left_out():
  report = Report()
  assert kept(tree('a s: of it', 'b a: is it', score=0), report) == []
  assert report.counts == {'low score': 1}
  # the first one has 31 words: the path begins after it
  assert kept(tree('a s: ' + 'it ' * 31, 'b a: is it', 'c b: so it')) == [
    ['is it', 'so it']
  ]


def test_comments_are_normal_as_the_releases():
  pytest.importorskip('nltk')
  text = "#no b/c it's w/o\\ “that” foo_bar, see http://x.y/z é!"
  assert reddit.normal(text) == "because it's without “ that ” foo bar , see __url__ !"


@pytest.mark.parametrize(
  'change, reason',
  [
    ({}, ''),
    ({'body': '[deleted]'}, 'deleted'),
    ({'body': '&gt; you said\nno'}, 'quotes'),
    ({'body': 'yes'}, 'one word'),
    ({'link_id': None}, 'no comment'),
    ({'score': None}, ''),
    ({'score': 'x'}, 'no comment'),
  ],
)
def test_a_line_of_a_dump(change, reason):
  about = {
    'id': 'a',
    'parent_id': 't3_s',
    'link_id': 't3_s',
    'body': 'so\nit',
    'score': 2,
  }
  comment, why = reddit.comment(about | change)
  assert why == reason
  assert (comment is None) == bool(reason)
  if not change:
    assert comment == Comment('t1_a', 't3_s', 't3_s', 'so it', 2)


def test_another_cleaning_is_refused():
  with pytest.raises(
    UserError, match="'papers' is none of paper, release. Did you mean"
  ):
    kept(pair('it is'), cleaning='papers')
