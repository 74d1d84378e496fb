"""Fuzzy de-duplication beside its formula and brute force; workers and kills."""

import itertools
import json
import math
import pathlib
import random
import signal
import subprocess
import sys
import time

import curation_runs
import numpy as np
import pytest

from gpt_jax.config import UserError
from gpt_jax.data.curation import (
  blocks,
  candidates,
  dedup,
  engine,
  grams,
  minhash,
  shards,
)
from gpt_jax.data.curation.components import Scope
from gpt_jax.data.curation.shards import Document, read_shard, write_shard

pytest.importorskip('zstandard')


def write(folder: pathlib.Path, documents: list[Document], number: int) -> list[str]:
  """Writes documents as shards of `number` and returns their paths."""
  for i in range(0, len(documents), number):
    name = f'{i // number:05d}{shards.SUFFIX}'
    write_shard(folder / name, documents[i : i + number])
  return shards.list_shards(folder)


def kept_of(folder: pathlib.Path) -> list[str]:
  return [d.id for path in shards.list_shards(folder) for d in read_shard(path)]


def deduplicated(tmp_path, documents, settings, number=1000):
  """Returns the report, and the ids of what was kept."""
  paths = write(tmp_path / 'in', documents, number)
  runs = engine.local(1, tmp_path / 'state')
  report = dedup.run(runs, paths, str(tmp_path / 'out'), settings)
  return report, kept_of(tmp_path / 'out')


def elements(text: str, shingles: bool) -> set[str]:
  words = text.lower().split()
  if not shingles:
    return set(words)
  return {' '.join(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def jaccard(a: set, b: set) -> float:
  return len(a & b) / len(a | b)


def pair(name: str, similarity: float, shingles: bool, size: int) -> tuple[str, str]:
  """Returns two texts of about a Jaccard similarity, and of words of their own."""
  shared = round(2 * size * similarity / (1 + similarity))
  more = 4 if shingles else 0
  words = [f'{name}x{i}' for i in range(shared + more)]
  ends = [[f'{name}{side}{i}' for i in range(size - shared)] for side in 'yz']
  return tuple(' '.join(words + end) for end in ends)


@pytest.mark.parametrize(
  'settings',
  [
    dedup.Dedup(),
    dedup.Dedup(bands=4, rows=2, threshold=0.25),
    dedup.Dedup(mode='gpt3'),
    dedup.Dedup(mode='gpt3', threshold=0.25),
  ],
  ids=['bands-14-8', 'bands-4-2', 'gpt3', 'gpt3-low'],
)
@pytest.mark.parametrize('similarity', [0.9, 0.71, 0.3])
def test_copies_are_removed_as_often_as_the_formula_says(
  tmp_path, settings, similarity
):
  plan, shingles = settings.plan(), settings.mode == 'bands'
  rng = random.Random(0)
  documents, likely = [], []
  for i in range(1000):
    texts = pair(f'n{i}', similarity, shingles, rng.randint(60, 90))
    own = jaccard(*(elements(text, shingles) for text in texts))
    found = minhash.probability(own, plan.bands, plan.rows)
    likely.append(found * (own >= plan.threshold))
    documents += [Document(f'{i}-{j}', 's', text, {}) for j, text in enumerate(texts)]
  report, kept = deduplicated(tmp_path, documents, settings)
  gone = 2000 - len(kept)
  assert report['dropped'].get('copy', 0) == gone
  error = math.sqrt(sum(p * (1 - p) for p in likely))
  assert abs(gone - sum(likely)) <= 3 * error + 0.5
  # Of each pair the first is kept.
  assert {each for each in kept if each.endswith('-0')} == {
    f'{i}-0' for i in range(1000)
  }


def mutated(count: int, seed: int) -> list[Document]:
  """Returns documents of three sources, many of them nearly copies of others."""
  rng = random.Random(seed)
  texts = []
  for _ in range(count):
    if texts and rng.random() < 0.6:
      words = rng.choice(texts).split()
      for _ in range(rng.randint(0, 6)):
        words[rng.randrange(len(words))] = f'w{rng.randrange(300)}'
    else:
      words = [f'w{rng.randrange(300)}' for _ in range(rng.randint(1, 40))]
    texts.append(' '.join(words))
  return [Document(f'd#{i}', 'abc'[i % 3], text, {}) for i, text in enumerate(texts)]


def brute_force(documents, shingles, threshold, priority, across) -> set[str]:
  """Returns the ids that are kept, comparing all documents with all."""
  rank = {source: i for i, source in enumerate(priority)}
  ordered = sorted(documents, key=lambda d: rank.get(d.source, 9))  # stable
  sets = [elements(document.text, shingles) for document in ordered]
  component = list(range(len(ordered)))
  for i, j in itertools.combinations(range(len(ordered)), 2):
    one, two = ordered[i].source, ordered[j].source
    may = one == two or across == 'all' or (across == 'priority' and one in priority)
    if may and jaccard(sets[i], sets[j]) >= threshold:
      old, new = (f(component[i], component[j]) for f in (max, min))
      component = [new if each == old else each for each in component]
  return {d.id for i, d in enumerate(ordered) if component[i] == i}


@pytest.mark.parametrize('across', ['all', 'priority', 'none'])
@pytest.mark.parametrize('shingles', [True, False])
def test_what_is_kept_is_that_of_brute_force(tmp_path, shingles, across):
  documents = mutated(300, 1)
  # So many bands that every pair of some likeness is a candidate; 10 hashes miss one
  # of 10,000 pairs at a similarity of 0.6.
  settings = dedup.Dedup(
    mode='bands' if shingles else 'gpt3',
    bands=60 if shingles else 14,
    rows=1 if shingles else 8,
    threshold=0.6,
    window=400,
    priority=('b',),
    across=across,
  )
  _, kept = deduplicated(tmp_path, documents, settings, 70)
  assert set(kept) == brute_force(documents, shingles, 0.6, ('b',), across)
  assert kept == [d.id for d in documents if d.id in set(kept)]  # in their order


def test_a_word_is_lower_case_between_white_space():
  found, ends = minhash.features(['One  two\nONE', '', 'Two'], shingles=False)
  assert ends.tolist() == [3, 3, 4]
  assert found[0] == found[2] and found[1] == found[3] != found[0]


def test_shingles_end_with_their_text_and_short_texts_have_one():
  texts = ['a b c d e f', 'f g', '', 'b c d e f', 'f g']
  found, ends = minhash.features(texts, shingles=True)
  assert ends.tolist() == [2, 3, 3, 4, 5]
  assert found[1] == found[3] and found[2] == found[4]
  assert len({*found.tolist()}) == 3


def test_numbers_are_the_same_on_every_machine():
  words = grams.words(['Ab, “c”—d ...  e'], grams.BARE)
  assert words.places.tolist() == [0, 1, 3]  # '...' is no word
  assert words.numbers.tolist() == [grams.number(w) for w in ('ab', 'cd', 'e')]
  # As `printf ab | b2sum -l 64` and `printf '1 0' | b2sum`, their bytes reversed.
  assert grams.number('ab') == 0x8810DE87F1B5520E
  assert minhash.orders(2).tolist() == [0xEDFA1BB2 | 1, 0x41760F9C | 1]


def test_similarities_are_those_of_sets():
  rng = np.random.default_rng(0)
  sets = [
    [np.unique(rng.integers(0, 40, rng.integers(0, 30), 'u4')) for _ in range(50)]
    for _ in range(2)
  ]
  given = [
    (np.concatenate(some), np.cumsum([len(each) for each in some])) for some in sets
  ]
  expected = [
    len({*a} & {*b}) / max(1, len({*a} | {*b}))
    for a, b in zip(*(map(np.ndarray.tolist, some) for some in sets), strict=True)
  ]
  assert minhash.similarities(*given).tolist() == expected


def test_a_window_bounds_a_bucket_and_what_it_leaves_out_is_counted(tmp_path):
  documents = [Document(f'd#{i}', 's', 'a b c d e f g', {}) for i in range(100)]
  documents += [Document('d#other', 's', 'nothing like it is here at all', {})]
  documents += [Document('d#empty', 's', ' \n', {}), Document('d#2', 's', '', {})]
  settings = dedup.Dedup(bands=3, rows=2, window=4)
  report, kept = deduplicated(tmp_path, documents, settings, 40)
  assert kept == ['d#0', 'd#other', 'd#empty', 'd#2']
  in_windows = 4 * 100 - (1 + 2 + 3 + 4)
  assert report['empty'] == 2
  assert report['pairs'] == {
    'compared': 3 * in_windows,
    'left_out': 3 * (100 * 99 // 2 - in_windows),
    'unlike': 0,
    'largest': 100,
    'candidates': in_windows,
    'alike': in_windows,
  }
  example = report['examples']['copy'][0]
  assert (example['id'], example['kept_instead']) == ('d#1', 'd#0')


def test_a_key_of_many_records_is_read_in_chunks(tmp_path, monkeypatch):
  documents = mutated(200, 2)
  settings = dedup.Dedup(mode='gpt3', threshold=0.6, window=1000)
  whole, kept = deduplicated(tmp_path / 'a', documents, settings, 25)
  monkeypatch.setattr(blocks, 'CHUNK', 100)
  monkeypatch.setattr(blocks, 'bits_for', lambda documents: 0)
  chunked, _ = deduplicated(tmp_path / 'b', documents, settings, 25)
  pairs, of_chunks = whole['pairs'], chunked['pairs']
  assert pairs['left_out'] == 0 < of_chunks['left_out']
  assert pairs['compared'] == of_chunks['compared'] + of_chunks['left_out']
  assert pairs['largest'] == of_chunks['largest']


def test_keys_divide_what_does_not_fit():
  assert blocks.bits_for(1 << 17) == 0 < blocks.bits_for((1 << 18) + 1)
  documents = mutated(300, 3)
  texts = [document.text for document in documents]
  plan = dedup.Dedup(mode='gpt3', window=1000).plan()
  hashes = minhash.signatures(*minhash.features(texts, False), 74)
  signed = np.zeros(len(texts), plan.signed())
  signed['bands'] = minhash.banded(hashes, 10, 1)
  signed['order'] = np.arange(len(texts))
  found = []
  for bits in (0, 3):
    pairs = set()
    for key, block in candidates.emit(plan, bits, 0, signed):
      for record in candidates.compare(plan, key, iter([block])):
        if record[:1] == candidates.PAIRS:
          pairs |= {*np.frombuffer(record, candidates.PAIR, offset=1).tolist()}
    found.append(pairs)
  assert found[0] == found[1] != set()


def content(folder: pathlib.Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_workers_and_a_kill_change_nothing(tmp_path):
  documents = mutated(1500, 4)
  for name in ('one', 'four', 'killed'):
    write(tmp_path / name / 'in', documents, 400)
  one = curation_runs.deduplicate(str(tmp_path / 'one'), 1)
  assert one['kept'] < 1300
  assert curation_runs.deduplicate(str(tmp_path / 'four'), 4) == one
  killed = tmp_path / 'killed'
  script = pathlib.Path(curation_runs.__file__)
  command = [sys.executable, str(script), 'deduplicate', str(killed), '1']
  environment = {'PYTHONPATH': str(script.parents[1])}
  process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
  while not (killed / 'state/dedup/gather').exists():
    assert process.poll() is None
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not (killed / 'out').exists()
  signatures = {
    path: path.stat().st_mtime_ns for path in killed.glob('state/dedup/signatures/*')
  }
  assert curation_runs.deduplicate(str(killed), 1) == one
  # What was finished was not done again.
  assert signatures == {path: path.stat().st_mtime_ns for path in signatures}
  assert len(signatures) == 4
  out = content(tmp_path / 'one/out')
  assert out == content(tmp_path / 'four/out') == content(killed / 'out')
  json.dumps(one)


def test_wrong_settings_are_named():
  with pytest.raises(UserError, match="mode='x' must be one of bands, gpt3; bands=0"):
    dedup.Dedup(mode='x', bands=0).plan()
  with pytest.raises(UserError, match="rows=2 say nothing to mode='gpt3'"):
    dedup.Dedup(mode='gpt3', rows=2).plan()
  with pytest.raises(UserError, match='threshold=2 must be from 0'):
    dedup.Dedup(threshold=2).plan()
  with pytest.raises(UserError, match="across='priority' needs priority"):
    dedup.Dedup(across='priority').plan()
  assert Scope(('a', 'a')).wrong() == [
    "priority=('a', 'a') must be at most 254 sources, each once"
  ]
