"""The planted faults: all can be planted, and the script tells caught from missed."""

import collections
import tomllib

import pytest

from benchmarks import mutants
from benchmarks.mutants import Fault, Outcome
from gpt_jax.config import UserError

FAULTS = mutants.read()
ROOMS = (
  'config files paths tokenizers data tasks programs model weights training decoding '
  'evaluation inference runs sweep reports cli launch experiments'
).split()


def test_every_fault_can_be_planted_and_names_a_test():
  assert {str(f): why for f in FAULTS if (why := mutants.wrong(f))} == {}


def test_every_room_has_faults():
  count = collections.Counter(fault.room for fault in FAULTS)
  assert count.keys() == set(ROOMS) and min(count.values()) >= 4
  assert len(FAULTS) >= 150
  known = [fault for fault in FAULTS if fault.reason]
  assert len(known) <= mutants.MOST_MISSED * len(FAULTS)


def fault(**fields):
  return Fault('room', 'name', 'a.py', 'x + 1', 'x - 1', 'test_a.py::test_a')._replace(
    **fields
  )


@pytest.fixture
def tree(tmp_path):
  (tmp_path / 'a.py').write_text('def f(x):\n  return x + 1\n')
  (tmp_path / 'test_a.py').write_text(
    'import a\n\n\ndef test_a():\n  assert a.f(1) == 2\n\n\ndef test_b():\n  a.f(1)\n'
  )
  return tmp_path


@pytest.mark.parametrize(
  ('fields', 'says'),
  [
    ({}, ''),
    ({'file': 'b.py'}, 'b.py is not there'),
    ({'old': 'x + 2'}, 'its text occurs 0 times in a.py'),
    ({'old': 'x'}, 'its text occurs 2 times in a.py'),
    ({'new': 'x + 1'}, 'it changes nothing'),
    ({'test': 'test_b.py::test_a'}, 'test_b.py is not there'),
    ({'test': 'test_a.py::test_'}, "test_a.py has no test 'test_'"),
    ({'test': 'test_a.py::test_a[1-x]'}, ''),
  ],
)
def test_a_fault_that_can_not_be_planted_is_named(tree, fields, says):
  assert mutants.wrong(fault(**fields), tree) == says


def test_a_day_draws_the_same_faults_and_no_known_survivor():
  faults = [fault(name=str(i), reason='why' * (i % 2)) for i in range(60)]
  some = mutants.drawn(faults, 20, '2026-11-30')
  assert some == mutants.drawn(faults, 20, '2026-11-30') != faults[:40:2]
  assert some != mutants.drawn(faults, 20, '2026-12-01')
  assert len(set(some)) == 20 and not any(each.reason for each in some)
  assert len(mutants.drawn(faults, 99, '2026-11-30')) == 30


def test_entries_with_other_fields_or_one_name_are_refused(tmp_path):
  entry = tomllib.loads('name = "a"\nfile = "f"\nold = "o"\nnew = "n"\ntest = "t"')

  def written(*entries):
    lines = [
      '[[fault]]\n' + ''.join(f'{k} = "{v}"\n' for k, v in each.items())
      for each in entries
    ]
    (tmp_path / 'room.toml').write_text('\n'.join(lines))
    return mutants.read(tmp_path)

  assert written(entry) == [Fault('room', 'a', 'f', 'o', 'n', 't', '')]
  with pytest.raises(UserError, match='names that occur twice: room/a'):
    written(entry, entry)
  with pytest.raises(UserError, match='room.toml: a: .*tset'):
    written(entry | {'tset': ''})


def test_a_fault_is_caught_or_missed_by_its_test(tree, monkeypatch):
  monkeypatch.setattr(mutants, 'copied', lambda place: None)  # it is the tree
  planted = mutants.Tree(tree, tree / 'compiled')
  caught = planted.try_out(fault(), ['test_a.py::test_a'], 60)
  assert (caught.kind, caught.where) == ('assertion', 'test_a::test_a')
  missed = planted.try_out(fault(), ['test_a.py::test_b'], 60)
  assert (missed.kind, missed.where) == ('passed', '')
  broken = planted.try_out(fault(new='x +'), ['test_a.py::test_b'], 60)
  assert broken.kind == 'import'
  assert 'x + 1' in (tree / 'a.py').read_text()  # mended again


def test_the_table_counts_what_was_missed_and_by_which_test_else():
  faults = [fault(name=name) for name in 'abcd']
  faults[3] = faults[3]._replace(reason='no number depends on it')
  verdicts = mutants.Verdicts(4)
  for each, kind, named in zip(
    faults,
    ('assertion', 'TypeError', 'passed', 'passed'),
    (True, False, False, True),
    strict=True,
  ):
    verdicts.add(each, Outcome(kind, 'test_c::test_c', 1.0), named)
  text = mutants.table(faults, verdicts)
  assert 'all               2       2 (50.0 %)' in text
  assert 'missed: room/c (not by test_a.py::test_a)' in text
  assert 'missed: room/d (no number depends on it)' in text
  assert 'not by its test: room/b: by test_c::test_c, not by test_a.py::test_a' in text
