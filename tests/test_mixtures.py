"""Mixtures: which source a row is drawn from, against brute force."""

import collections

import numpy as np
import pytest

from gpt_jax import config
from gpt_jax.config import UserError, mixture
from gpt_jax.data import mixtures

NAMES = 'abcdefghij'
# Table 2.2 of GPT-3, whose weights add up to 101 %.
TABLE = 'cc=60, webtext2=22, books1=8, books2=8, wikipedia=3'


def data(weights=TABLE, **fields):
  names = sorted(
    {
      entry.split('=')[0].split(':')[-1].strip()
      for part in weights.split(';')
      for entry in part.split(',')
    }
  )
  return config.Data(
    mixture='; '.join(f'{n}={n}.txt' for n in names),
    weights=weights,
    source='',
    **fields,
  )


def stages_of(weights):
  return mixture.stages(data(weights))


def random_weights(seed):
  rng = np.random.default_rng(seed)
  values = rng.dirichlet(np.full(rng.integers(2, 9), 0.4)) + 2e-4
  return ', '.join(f'{n}={w:.6f}' for n, w in zip(NAMES, values, strict=False))


def test_weights_are_divided_by_their_sum():
  (stage,) = stages_of(TABLE)
  assert sum(stage.rows.values()) == mixture.CYCLE
  for name, weight in (('cc', 60), ('webtext2', 22), ('books1', 8), ('wikipedia', 3)):
    assert abs(stage.rows[name] - 10_000 * weight / 101) < 1
  assert stages_of('a=0.2, b=0.6') == stages_of('a=1, b=3') == stages_of('a=1/4,b=3/4')
  usual = mixture.stages(config.Data(mixture='a=x; b=y'))
  assert usual == [(0, {'a': 5000, 'b': 5000})]


@pytest.mark.parametrize('weights', [TABLE, 'a=1', *map(random_weights, range(6))])
def test_any_10000_rows_hold_each_source_as_often_as_its_weight_says(weights):
  (stage,) = stages_of(weights)
  values = dict(entry.split('=') for entry in weights.replace(' ', '').split(','))
  total = sum(map(float, values.values()))
  order = mixtures.Order(list(stage.rows.values()))
  source, _ = order.draw(np.arange(35_000))
  for k, name in enumerate(stage.rows):
    quota = 10_000 * float(values[name]) / total
    before = np.concatenate([[0], np.cumsum(source == k)])
    counts = before[10_000:] - before[:-10_000]
    assert np.abs(counts - quota).max() <= max(0.02 * quota, 1), name
    # In few rows too, none is far from its share: within 1 and a share of the sources.
    for window in (10, 101, 1000):
      counts = before[window:] - before[:-window]
      share = quota / 10_000
      assert np.abs(counts - share * window).max() < 1.01 + share * len(stage.rows)


def several_stages():
  names = 'a', 'b', 'c'
  rows = [(6000, 3000, 1000), (1, 9999, 0), (3333, 3333, 3334)]
  files = [(0, 1, 2), (0, 1, 2), (0, 3, 2)]  # b has grown before the third
  begins = 0, 12_345, 23_456
  assert len(names) == 3
  return [mixtures.Stage(*each) for each in zip(begins, rows, files, strict=True)]


def test_a_source_is_drawn_row_by_row_through_all_stages():
  drawn = mixtures.Mixture(several_stages())
  files, numbers = drawn.draw(np.arange(40_000))
  seen = collections.Counter()
  for row, (file, number) in enumerate(
    zip(files.tolist(), numbers.tolist(), strict=True)
  ):
    assert number == seen[file], row  # without a gap, and none twice
    seen[file] += 1
    if row in (1, 12_344, 12_345, 23_456, 39_998):
      counted = [seen[file] for file in range(4)]
      assert drawn.drawn(row + 1).tolist() == counted
  assert set(files[:12_345]) == {0, 1, 2} and 2 not in files[12_345:23_456]
  assert 1 not in files[23_456:]
  before = seen_before(files, 12_345, 23_456)
  assert before[0] <= 3 and before[1] > 11_000


def seen_before(files, first, last):
  return collections.Counter(files[first:last].tolist())


def test_rows_are_inverted():
  drawn = mixtures.Mixture(several_stages())
  rows = np.random.default_rng(0).integers(0, 10**7, 1000)
  rows = np.concatenate([rows, [0, 12_344, 12_345, 23_455, 23_456]])
  files, numbers = drawn.draw(rows)
  back = [
    drawn.row(*each) for each in zip(files.tolist(), numbers.tolist(), strict=True)
  ]
  assert back == rows.tolist()


def test_a_row_is_drawn_alike_alone_and_among_others():
  drawn = mixtures.Mixture(several_stages())
  rows = np.arange(12_300, 12_400)
  files, numbers = drawn.draw(rows)
  for row, file, number in zip(rows, files, numbers, strict=True):
    alone = drawn.draw(np.array([row]))
    assert (int(alone[0][0]), int(alone[1][0])) == (file, number)


def test_weights_change_by_stage():
  first, second = stages_of('a=1, b=3; 500: a=1, b=0')
  assert first == (0, {'a': 2500, 'b': 7500})
  assert second == (500, {'a': 10_000, 'b': 0})


@pytest.mark.parametrize(
  ('fields', 'said'),
  [
    ({'weights': 'a=1', 'mixture': ''}, 'must come with data.mixture'),
    ({'mixture': 'a=x; a=y'}, 'must name each source once'),
    ({'mixture': 'a/b=x'}, "'a/b=x' must be NAME=SOURCE|a/b=x must be NAME=SOURCE"),
    ({'mixture': 'x.txt'}, 'must be NAME=SOURCE'),
    ({'weights': 'a=1, c=1'}, 'not to c'),
    ({'weights': 'a=1, a=1'}, 'one of them twice'),
    ({'weights': 'a=-1, b=3'}, 'numbers and not negative'),
    ({'weights': 'a=nan, b=1'}, 'numbers and not negative'),
    ({'weights': 'a=0'}, 'one above 0'),
    ({'weights': 'a=1, b=0.00004'}, 'b would have less than one of 10,000 rows'),
    ({'weights': 'a=1; b=1'}, 'must begin with an update above'),
    ({'weights': '5: a=1'}, 'must begin with an update above'),
    ({'weights': 'a=1; 9: b=1; 9: a=1'}, 'must begin with an update above'),
    ({'windows': 'random'}, "data.windows='random' must be 'epochs'"),
    ({'source': 'text'}, "data.source='text' must be ''"),
    ({'valid': 'text'}, "data.valid='text' must be ''"),
  ],
)
def test_a_mixture_has_its_rules(fields, said):
  run = config.Run(data=config.Data(**({'mixture': 'a=x; b=y'} | fields)))
  with pytest.raises(UserError, match=said):
    config.check(run)


def test_checksums_belong_to_sources_in_their_order():
  given = config.Data(
    mixture='a=https://x/1; b=dir; c=https://x/2,https://x/3', sha256='1,2,3', source=''
  )
  config.check(config.Run(data=given))
  own = mixture.sources(given)
  assert [each.sha256 for each in own.values()] == ['1', '', '2,3']
  assert own['c'].source == 'https://x/2,https://x/3' and not own['c'].mixture
