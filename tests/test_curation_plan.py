"""What 45 TB take is what was measured, scaled by hand; and when a stage is killed."""

import json

import pytest

from benchmarks import curation_plan, curation_sizes


def row(stage, read, steps, megabytes=1.0, **report):
  about = {'stage': stage, 'megabytes': megabytes, 'read': read, 'shuffled': 40}
  return about | {'steps': steps, 'report': report, 'kills': [], 'digest': stage}


def test_maps_cost_by_text_and_the_fit_nothing():
  rows = [
    row('quality', 1e9, {'count': 1.0, 'sample': 50.0, 'fit': 9.0, 'score': 7.0}, 2),
    row('quality', 1e6, {'count': 9.0, 'sample': 50.0, 'fit': 9.0, 'score': 9.0}, 1),
  ]
  line = curation_plan.mapped(rows, 'quality', 3.0)
  assert line.core_seconds == pytest.approx(3000 * (1 + 1 + 7))
  assert line.shuffled == pytest.approx(3000 * 40)


def test_pairs_cost_by_the_pair():
  steps = {
    'sign': 5.0,
    'meet/reduce': 2.0,
    'gather/reduce': 3.0,
    'verify/emit': 1.0,
    'verify/reduce': 4.0,
  }

  def sized(documents, candidates, megabytes):
    pairs = {'compared': 1000, 'candidates': candidates, 'largest': 50}
    read = 1e6 * megabytes
    return row('gpt3', read, steps, megabytes, documents=documents, pairs=pairs)

  # Candidates of a document: 2, then 4 at four times the documents: 1 more a doubling.
  rows = [sized(400, 1600, 4), sized(100, 200, 1)]
  line, pairs = curation_plan.compared(rows, 32e-6)  # 8 times the larger
  assert pairs.documents == pytest.approx(3200)
  assert pairs.compared == pytest.approx(3200 * 10 * 32)
  assert pairs.verified == pytest.approx(3200 * (4 + 3))
  assert pairs.bucket == pytest.approx(400)
  assert pairs.bucket_seconds == pytest.approx(400 * 32 * 2 / 1000)
  by_pair, by_candidate = 2 / 1000, 8 / 1600
  assert line.core_seconds == pytest.approx(
    8 * 5 + pairs.compared * by_pair + pairs.verified * by_candidate
  )
  assert line.shuffled == pytest.approx(40 * 8 * 7 / 4)


def test_each_step_is_killed_once(tmp_path):
  killer = curation_sizes.Killer(tmp_path)
  assert not killer.due()
  for step in ('count', 'meet/emit'):
    (tmp_path / step).mkdir(parents=True)
    (tmp_path / step / '000000.json').write_text(json.dumps({'cpu': 1.5}))
    assert killer.due() and not killer.due()
  (tmp_path / 'runs.json').write_text('[]')  # no mark
  assert not killer.due()
  assert killer.steps == ['count', 'meet/emit']


def test_the_table_says_whether_kills_changed_anything():
  rows = [row(s, 1e6, {'all': 2.0}, documents=9, kept=8) for s in curation_sizes.STAGES]
  rows = [each | {'seconds': 3, 'peak': 5e6} for each in rows]
  killed = [each | {'kills': ['all']} for each in rows]
  text = curation_sizes.table([*rows, *killed], 'about')
  assert 'kills and without: 8 of 8 stages wrote the same bytes' in text
  killed[3]['digest'] = 'other'
  text = curation_sizes.table([*rows, *killed], 'about')
  assert 'kills and without: 7 of 8 stages wrote the same bytes' in text
  assert '| exact | 1 | 1 | 9 | 8 | 3 | 2 | 2,000 | 0 | 5 | 1 |' in text
