"""Equal documents and repeated passages, beside brute force."""

import random

import pytest

from gpt_jax.config import UserError
from gpt_jax.data.curation import blocks, engine, exact, shards
from gpt_jax.data.curation.shards import Document, read_shard, write_shard

pytest.importorskip('zstandard')


def ran(tmp_path, documents, settings, number=7):
  """Returns a stage's report and the documents that are left."""
  for i in range(0, len(documents), number):
    name = f'{i // number:05d}{shards.SUFFIX}'
    write_shard(tmp_path / 'in' / name, documents[i : i + number])
  stage = exact.run if isinstance(settings, exact.Exact) else exact.cut_passages
  paths, out = shards.list_shards(tmp_path / 'in'), tmp_path / 'out'
  report = stage(engine.local(1, tmp_path / 'state'), paths, str(out), settings)
  return report, [d for path in shards.list_shards(out) for d in read_shard(path)]


@pytest.fixture(params=[False, True], ids=['whole', 'chunks'])
def chunks(request, monkeypatch):
  if request.param:
    monkeypatch.setattr(blocks, 'CHUNK', 20)
    monkeypatch.setattr(blocks, 'bits_for', lambda records: 0)
  else:
    monkeypatch.setattr(blocks, 'bits_for', lambda records: 3)


@pytest.mark.parametrize('across', ['all', 'priority', 'none'])
def test_of_equal_documents_the_first_is_kept(tmp_path, chunks, across):
  rng = random.Random(0)
  letters = [
    f'text number {i % 40} of letters and digits: 0123456789' for i in range(90)
  ]
  documents = []
  for i, text in enumerate(letters):
    shown = rng.choice([text, text.upper(), f' {text}!', text.replace(' ', '\n')])
    documents.append(Document(f'd#{i}', rng.choice('abc'), shown, {}))
  documents += [Document('d#x', 'a', t, {}) for t in ('1 + 1', '1 - 1', '1 + 1', '')]
  settings = exact.Exact(('b',), across, 3)
  report, left = ran(tmp_path, documents, settings)
  kept, expected = {}, set()
  for i in sorted(range(90), key=lambda i: documents[i].source != 'b'):
    source, before = documents[i].source, kept.setdefault(i % 40, [])
    copy = source in before or (across == 'all' and before)
    copy = copy or (across == 'priority' and 'b' in before)
    if not copy:
      expected.add(f'd#{i}')
    before.append(source)
  assert {d.id for d in left if d.id != 'd#x'} == expected
  assert [d.text for d in left if d.id == 'd#x'] == ['1 + 1', '1 - 1', '']
  assert report['dropped'] == {'copy': 94 - len(left)}


def repeated(texts: list[str], n: int) -> list[str]:
  """Returns texts without words that are in a window of n words that stood before."""
  seen, left = set(), []
  for text in texts:
    words = text.split()
    kept = [True] * len(words)
    for i in range(len(words) - n + 1):
      window = tuple(word.lower() for word in words[i : i + n])
      if window in seen:
        kept[i : i + n] = [False] * n
      seen.add(window)
    left.append(' '.join(w for w, k in zip(words, kept, strict=True) if k))
  return left


def test_what_is_cut_is_what_brute_force_finds(tmp_path, chunks):
  rng = random.Random(1)
  texts = []
  for _ in range(60):
    words = [rng.choice('abcdE') for _ in range(rng.randint(0, 40))]
    texts.append(''.join(word + rng.choice([' ', '  ', '\n']) for word in words))
  documents = [Document(f'd#{i}', 's', text, {}) for i, text in enumerate(texts)]
  report, left = ran(tmp_path, documents, exact.Passages(5, 3))
  expected = {f'd#{i}': text for i, text in enumerate(repeated(texts, 5))}
  gone = {i for i, text in expected.items() if not text and texts[int(i[2:])].strip()}
  assert {d.id: ' '.join(d.text.split()) for d in left} == {
    i: text for i, text in expected.items() if i not in gone
  }
  assert report['dropped'].get('nothing_left', 0) == len(gone)
  assert report['cut'] > 5


def test_a_corpus_without_repeats_stays_as_it_is(tmp_path):
  texts = [' '.join(f'{i}w{j}' for j in range(60)) for i in range(20)]
  texts.append(f'{texts[3][:200]} and more')  # fewer than 50 words of another
  documents = [Document(f'd#{i}', 's', text, {}) for i, text in enumerate(texts)]
  report, left = ran(tmp_path, documents, exact.Passages())
  assert left == documents and 'cut' not in report


def test_a_passage_stays_where_it_stands_first(tmp_path):
  passage = ' '.join(f'w{i}' for i in range(60))
  documents = [
    Document(f'd#{i}', 's', f'Begin {i}.  {passage}\nend{i}.', {}) for i in range(20)
  ]
  report, left = ran(tmp_path, documents, exact.Passages(50, 2))
  assert left[0] == documents[0]
  assert [d.text for d in left[1:]] == [f'Begin {i}.  \nend{i}.' for i in range(1, 20)]
  assert report['cut'] == 19 and report['characters_cut'] == 19 * len(passage)


def test_wrong_settings_are_named(tmp_path):
  with pytest.raises(UserError, match="exact: across='x' must be one of all, priori"):
    ran(tmp_path, [Document('d#0', 's', 'a', {})], exact.Exact(across='x'))
  with pytest.raises(UserError, match='passages: n=1 must be 2 words or more'):
    ran(tmp_path, [Document('d#0', 's', 'a', {})], exact.Passages(1))
