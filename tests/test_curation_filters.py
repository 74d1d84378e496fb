"""Filters by rule: what each drops, and shares of n-grams by brute force."""

import collections
import random

import numpy as np
import pytest

from gpt_jax.config import UserError
from gpt_jax.data.curation import engine, filters, stages
from gpt_jax.data.curation.filters import C4, Gopher, Language, Repair
from gpt_jax.data.curation.shards import Document, read_shard, write_shard


def doc(text: str) -> Document:
  return Document('f#1', 's', text, {})


def prose(words: int, seed: int = 0) -> str:
  """Returns text in lines that breaks no rule."""
  rng = random.Random(seed)
  names = [
    f'{a}{b}' for a in ('ma', 'so', 'ter', 'lin') for b in ('del', 'ra', 'k', 'o')
  ]
  each = [rng.choice(names) + rng.choice(names) for _ in range(words)]
  each[0], each[3] = 'the', 'with'
  return '\n'.join(' '.join(each[i : i + 12]) + '.' for i in range(0, words, 12))


GOOD = prose(300)
ONE_BY_ONE = [prose(60, seed) for seed in range(9)]


def repeated(text: str, times: int) -> str:
  return '\n\n'.join([*ONE_BY_ONE[:4], *[text] * times])


@pytest.mark.parametrize(
  ('text', 'reason'),
  [
    (prose(49), 'few words'),
    ('', 'few words'),
    (prose(20_001), 'many words'),
    (' '.join(['ab', 'the', 'and'] * 30), 'word length'),
    (' '.join(['abcdefghijklmnopqr', 'the', 'and', 'x' * 20] * 30), 'word length'),
    (GOOD + ' #' * 40, 'symbols'),
    (GOOD.replace('.', '...') + '...' * 20, 'symbols'),
    (GOOD + ' …' * 40, 'symbols'),
    (GOOD + ' 1234' * 100, 'few words with letters'),
    (GOOD.replace('the ', '').replace('with ', ''), 'few stop words'),
    ('\n'.join('- ' + line for line in GOOD.splitlines()), 'bullets'),
    (GOOD.replace('.', '…'), 'ellipses'),
    (GOOD + '\nthe same line' * 13, 'duplicate lines'),
    (repeated('the same\nparagraph with', 7), 'duplicate lines'),
    (repeated('the same paragraph with', 4), 'duplicate paragraphs'),
    (GOOD + ('\n' + 'masoter ' * 12) * 10, 'characters in duplicate lines'),
    (GOOD.replace('.', '') + ' terter' * 70, 'top 2-gram'),
  ],
)
def test_gopher_drops_what_breaks_a_rule(text, reason):
  settings = Gopher(words=(50, 20_000))
  assert settings(doc(text)) == reason


def test_gopher_keeps_what_breaks_none():
  for text in (GOOD, *ONE_BY_ONE, prose(1000, 5)):
    assert Gopher()(doc(text)) == doc(text)


@pytest.mark.parametrize(
  ('settings', 'text', 'reason'),
  [
    # Each rule alone: the others are switched off.
    ({'duplicate_paragraphs': 0.3}, 'a b\n\n' * 5 + 'c\n\nd', 'duplicate paragraphs'),
    (
      {'paragraph_characters': 0.2},
      'a long one\n\n' * 2 + '\n\n'.join('bcdefg'),
      'characters in duplicate paragraphs',
    ),
    ({'top_ngrams': (1, 0.18, 1)}, 'a b c x a b c y z u v w', 'top 3-gram'),
    ({'top_ngrams': (1, 1, 0.16)}, 'a b c d x a b c d y z u', 'top 4-gram'),
    ({'duplicate_ngrams': (0.2,)}, 'a b c d e x a b c d e', 'duplicate 5-grams'),
    ({'duplicate_ngrams': (1, 0.2)}, 'a b c d e f x a b c d e f', 'duplicate 6-grams'),
  ],
)
def test_a_rule_of_repetition_alone(settings, text, reason):
  off = {
    'words': (1, 99),
    'word_length': (0, 99),
    'stop_words': 0,
    'duplicate_lines': 1,
    'duplicate_paragraphs': 1,
    'line_characters': 1,
    'paragraph_characters': 1,
    'top_ngrams': (),
    'duplicate_ngrams': (),
  }
  assert Gopher(**off)(doc(text)) == doc(text)
  assert Gopher(**{**off, **settings})(doc(text)) == reason


def shares_by_hand(words: list[str], n: int) -> tuple[float, float]:
  """Returns the shares of characters in the top n-gram and in duplicates."""
  grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
  counts = collections.Counter(grams)
  most, total = max(counts.values()), sum(map(len, words))
  tops = [sum(map(len, g)) * c for g, c in counts.items() if c == most > 1]
  seen, inside = set(), set()
  for at, gram in enumerate(grams):
    if gram in seen:
      inside |= set(range(at, at + n))
    seen.add(gram)
  return max(tops, default=0) / total, sum(len(words[i]) for i in inside) / total


@pytest.mark.parametrize('seed', range(12))
def test_shares_of_ngrams_are_those_counted_by_hand(seed):
  rng = random.Random(seed)
  kinds = 'a bb ccc dddd é ffffff'.split()[: 2 + seed % 5]
  words = rng.choices(kinds, k=rng.randrange(3, 60))
  lengths = np.array([len(word) for word in words])
  ns = []
  for n, hashes in filters.ngrams(words, 8):
    ns.append(n)
    top, again = shares_by_hand(words, n)
    assert filters.share_of_top(hashes, lengths) == pytest.approx(top)
    assert filters.share_of_duplicates(hashes, lengths) == pytest.approx(again)
  assert ns == list(range(1, min(8, len(words)) + 1))


def test_longer_duplicates_have_no_larger_share():
  rng = random.Random(0)
  for _ in range(50):
    words = rng.choices('abcd', k=60)
    shares = [shares_by_hand(words, n)[1] for n in range(2, 9)]
    assert shares == sorted(shares, reverse=True)


def test_c4_keeps_whole_sentences():
  lines = [
    'This is a sentence of six words.',
    'Menu',
    'too few words.',
    'No mark stands at the end of it',
    'It goes on and on and on ...',
    'Please enable JavaScript in your browser now.',
    'We have a privacy policy that you accept.',
    'Was it so in 1911 [edit] or later [12]?',
    'She said, "I do not know him."',
  ]
  kept = C4()(doc('\n'.join(lines)))
  assert kept.text.split('\n') == [
    lines[0],
    'Was it so in 1911  or later ?',
    lines[8],
  ]
  assert C4(sentences=4)(doc('\n'.join(lines))) == 'few sentences'
  assert C4()(doc('Lorem Ipsum. ' + '\n'.join(lines))) == 'lorem ipsum'
  assert C4()(doc('\n'.join([*lines, 'x = {']))) == 'brace'


def test_repair_mends_what_was_decoded_wrongly():
  pytest.importorskip('ftfy')
  good = 'Señor “quotes” and ﬁnd, ＡＢＣ'
  wrong = 'The Mona Lisa doesnâ€™t have eyebrows. schÃ¶n'
  assert Repair()(doc(wrong)).text == 'The Mona Lisa doesn’t have eyebrows. schön'
  assert Repair()(doc(good)).text == good
  assert Repair()(doc('e\u0301')).text == 'é'
  assert Repair(form='')(doc('e\u0301')).text == 'e\u0301'
  with pytest.raises(UserError, match="form='nfc' must be NFC, NFKC, NFD"):
    Repair('nfc')


def test_language_keeps_those_that_are_named():
  pytest.importorskip('pycld2')
  english = 'The people of the town had gone to the harbour to see the ships. ' * 3
  russian = 'Жители города пошли в гавань посмотреть на корабли, которые пришли. ' * 3
  kept = Language()(doc(english))
  assert kept.text == english and kept.meta['language'] == 'en'
  assert Language()(doc(russian)) == 'language ru'
  assert Language(('ru', 'en'))(doc(russian)).meta['language'] == 'ru'
  assert Language(('ru',), 0.7)(doc(russian + english)) == 'mixed languages'
  assert Language()(doc('')) == 'language un'
  # Characters that CLD2 refuses say nothing of the language.
  assert Language()(doc('\0\x01\ufffe' + english)).meta['language'] == 'en'
  with pytest.raises(UserError, match=r"keep=\('EN',\) must name languages"):
    Language(('EN',))


def test_a_stage_counts_what_it_drops_with_examples(tmp_path):
  pytest.importorskip('zstandard')
  paths = []
  for shard in range(2):
    texts = [GOOD, 'short', *ONE_BY_ONE, 'few', 'short', '- x']
    documents = [
      Document(f'{shard}#{i}', f's{i % 2}', text, {}) for i, text in enumerate(texts)
    ]
    paths.append(str(tmp_path / 'in' / f'{shard:05d}.jsonl.zst'))
    write_shard(paths[-1], documents)
  run = engine.local(1, tmp_path / 'state')
  report = filters.run(run, paths, str(tmp_path / 'out'), Gopher(), 'gopher')
  kept = [d for p in paths for d in read_shard(p.replace('/in/', '/out/'))]
  assert [d.text for d in kept] == [GOOD, *ONE_BY_ONE] * 2
  size = sum(len(d.text) for d in kept)
  assert report['documents'] == 28 and report['kept'] == 20
  assert report['characters'] == size
  assert report['dropped'] == {'few words': 8}
  assert report['characters_dropped'] == {'few words': 2 * len('shortfewshort- x')}
  assert [each['id'] for each in report['examples']['few words']] == [
    '0#1',
    '0#11',
    '0#12',
  ]
  by_source = collections.Counter(d.source for d in kept)
  assert {name: pair[0] for name, pair in report['by_source'].items()} == by_source


def test_documents_that_change_are_counted(tmp_path):
  pytest.importorskip('zstandard')
  path = str(tmp_path / 'in' / '00000.jsonl.zst')
  line = 'This is a sentence of six words.\n'
  write_shard(path, [doc(line * 3 + 'Menu'), doc((line * 3).rstrip())])
  run = engine.local(1, tmp_path / 'state')
  report = filters.run(run, [path], str(tmp_path / 'out'), C4(), 'c4')
  assert report['changed'] == 1 and report['kept'] == 2
  assert stages.total([])['documents'] == 0
