"""Checkpoints: damage of every kind is found, named, and the one before it used."""

import contextlib
import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.config import UserError
from gpt_jax.training import checkpoint, checksums, manifest, metrics_log, saved
from gpt_jax.training.step import State

HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def state_of(step):
  """Returns a state that differs in every tensor from that of another step."""
  draw = np.random.default_rng(step)
  wte, bias = draw.normal(size=(40, 16)), draw.normal(size=16)
  params = {'wte': jnp.float32(wte), 'h_0': {'bias': jnp.float32(bias)}}
  moments = jax.tree.map(lambda leaf: leaf * 2, params)
  ema = jax.tree.map(lambda leaf: leaf + 1, params)
  return State(params, ({'mu': moments},), jnp.int32(step), ema)


LIKE = jax.tree.map(
  lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=HERE), state_of(0)
)


def opened(folder, **how):
  return contextlib.closing(checkpoint.Checkpoints(folder, **how))


@pytest.fixture(scope='module')
def three(tmp_path_factory):
  """A workdir with the checkpoints of updates 20, 40 and 60, and their record."""
  workdir = tmp_path_factory.mktemp('three')
  log = metrics_log.MetricsLog(workdir, 0)
  with opened(workdir / 'checkpoints', keep=3, run='mine') as kept:
    for step, nll in ((20, 3.0), (40, 1.0), (60, 2.0)):
      state = state_of(step)
      log.write(step, {'loss': nll})
      tensors = checksums.items(state)
      log.write_checksums(step, checksums.line(tensors))
      kept.save(state, nll, tensors=tensors, record=log.mark())
    kept.wait()
  log.close()
  return workdir


@pytest.fixture
def workdir(three, tmp_path):
  shutil.copytree(three, tmp_path / 'run')
  return tmp_path / 'run'


def resumed(workdir):
  """Returns the step resumed from, whether the state is as saved, and what was said."""
  said = []
  with opened(workdir / 'checkpoints', keep=3, run='mine') as kept:
    state = kept.restore_newest(LIKE, said.append)
  step = int(state.step)
  same = checksums.items(state) == checksums.items(state_of(step))
  return step, same, said


def arrays(folder):
  """Returns the files of a checkpoint that hold arrays."""
  return sorted(p for p in folder.rglob('d/*') if p.is_file())


def test_a_checkpoint_comes_back_as_it_was_saved(workdir):
  assert resumed(workdir) == (60, True, [])
  folder = workdir / 'checkpoints'
  assert saved.verify(folder) == {20: '', 40: '', 60: ''}
  assert saved.done(workdir) == 60
  assert saved.best_first(saved.losses(folder)) == [40, 60, 20]
  about = manifest.read(folder / '60')
  assert about['step'] == 60 and about['nll'] == 2.0 and about['run'] == 'mine'
  assert set(about['tensors']) == {'params', 'rest', 'ema'}
  sizes = {n: (folder / '60' / n).stat().st_size for n in about['files']}
  assert sizes == {name: size for name, (size, _) in about['files'].items()}


def cut(path):
  path.write_bytes(path.read_bytes()[:-1])


def zero(path):
  path.write_bytes(bytes(path.stat().st_size))


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 0x40
  path.write_bytes(content)


@pytest.mark.parametrize('harm', [cut, zero, flip, pathlib.Path.unlink])
def test_every_damaged_file_is_passed_over_or_harmless(workdir, harm, tmp_path):
  folder = workdir / 'checkpoints' / '60'
  names = sorted(p.relative_to(folder) for p in folder.rglob('*') if p.is_file())
  assert len(names) > 30
  draw, passed = np.random.default_rng(len(harm.__name__)), 0
  for number, name in enumerate(draw.choice(names, 12, replace=False)):
    copy = tmp_path / str(number)
    shutil.copytree(workdir, copy)
    harm(copy / 'checkpoints' / '60' / name)
    step, same, said = resumed(copy)
    assert same, name
    if step == 60:  # Orbax does not need it: of a manifest it was said
      assert not said or 'had no manifest' in said[0], (name, said)
    else:
      passed += 1
      assert step == 40
      assert 'checkpoint 60 is damaged (' in said[0]
      assert said[0].endswith(', going on from 40')
      assert (copy / 'checkpoints.damaged' / '60').exists()
    shutil.rmtree(copy)
  assert passed >= 6


def test_every_flipped_bit_of_arrays_is_noticed(workdir, monkeypatch):
  monkeypatch.setattr(manifest, 'SMALL', 0)  # by their tensors, as of large ones
  folder = workdir / 'checkpoints' / '60'
  draw, noticed = np.random.default_rng(0), 0
  with opened(workdir / 'checkpoints', keep=3, run='mine') as kept:
    for path in arrays(folder):
      whole = path.read_bytes()
      for at in draw.integers(0, len(whole), 6):
        content = bytearray(whole)
        content[at] ^= 1 << int(draw.integers(8))
        path.write_bytes(content)
        try:
          state = kept.restore(60, LIKE)
        except saved.Damaged as error:
          assert path.name in str(error)
          noticed += 1
        else:  # in a node of the file's tree that a later one replaced
          assert checksums.items(state) == checksums.items(state_of(60))
      path.write_bytes(whole)
    assert noticed > 24
    kept.restore(60, LIKE)


def copied(folder):
  shutil.copytree(folder / '40', folder / '80')


@pytest.mark.parametrize(
  'harm, says, step',
  [
    (lambda f: shutil.rmtree(f / '60/rest'), r'60 is damaged \(rest/.*: missing', 40),
    (lambda f: shutil.rmtree(f / '60/params'), r'60 is damaged \(params/: missing', 40),
    (lambda f: (f / '80').mkdir(), r'80 is damaged \(params/: missing', 60),
    (copied, '80 is damaged .*a copy of the checkpoint of update 40', 60),
  ],
)
def test_damage_of_a_folder_is_named(workdir, harm, says, step):
  harm(workdir / 'checkpoints')
  assert saved.done(workdir) == step
  at, same, said = resumed(workdir)
  assert (at, same, len(said)) == (step, True, 1)
  assert re.search(says, said[0])


def test_a_checkpoint_of_another_run_is_passed_over(workdir):
  path = workdir / 'checkpoints/60/manifest.json'
  path.write_text(path.read_text().replace('"mine"', '"theirs"'))
  step, _, said = resumed(workdir)
  assert step == 40 and 'it belongs to another run' in said[0]


def test_a_manifest_that_says_less_is_damaged(workdir):
  path = workdir / 'checkpoints/60/manifest.json'
  about = json.loads(path.read_text())
  for harm, says in (
    (lambda t: t.pop('rest'), r'manifest.json: it says nothing of rest/'),
    (lambda t: t['ema'].pop('wte'), 'ema/wte is not the tensor'),
  ):
    tensors = json.loads(json.dumps(about['tensors']))
    harm(tensors)
    path.write_text(json.dumps(about | {'tensors': tensors}))
    with opened(workdir / 'checkpoints') as kept, pytest.raises(saved.Damaged) as e:
      kept.restore(60, LIKE)
    assert says in str(e.value)


def test_refused_only_where_none_is_whole_but_there_were_some(workdir):
  folder = workdir / 'checkpoints'
  for step in (20, 40, 60):
    flip(arrays(folder / str(step))[0])
  with pytest.raises(UserError, match='all checkpoints are damaged: 60 .*; 40 .*; 20'):
    resumed(workdir)
  assert manifest.saved(folder) == [20, 40, 60]  # nothing was moved
  shutil.rmtree(folder)
  for _ in range(2):  # the second time the folder is there, and empty
    with pytest.raises(
      UserError, match='no checkpoint, but .* says that [46]0 updates'
    ):
      resumed(workdir)
  with pytest.raises(UserError, match='says that'):
    saved.newest_by_files(folder, print)


def test_a_kill_before_the_first_checkpoint_starts_again(tmp_path):
  (tmp_path / 'checkpoints').mkdir()
  with contextlib.closing(metrics_log.MetricsLog(tmp_path, 0)) as log:
    log.write(20, {'loss': 1.0})
    log.write_checksums(20, {})
  with opened(tmp_path / 'checkpoints') as kept:
    assert kept.restore_newest(LIKE, print) is None


def test_a_checkpoint_without_a_manifest_is_compared_with_the_record(workdir, tmp_path):
  folder = workdir / 'checkpoints'
  (folder / '60/manifest.json').unlink()
  shutil.copytree(workdir, tmp_path / 'copy')
  step, same, said = resumed(workdir)
  assert (step, same) == (60, True)
  assert 'compared with fingerprints.jsonl and has one now' in said[0]
  assert manifest.read(folder / '60')['tensors'] == checksums.items(state_of(60))
  assert resumed(workdir) == (60, True, [])
  # Another state under its name is noticed, in its parameters and elsewhere.
  for item in ('params', 'rest'):
    shutil.rmtree(tmp_path / 'copy/checkpoints/60', ignore_errors=True)
    shutil.copytree(folder / '60', tmp_path / 'copy/checkpoints/60')
    (tmp_path / 'copy/checkpoints/60/manifest.json').unlink()
    shutil.rmtree(tmp_path / 'copy/checkpoints/60' / item)
    shutil.copytree(folder / '40' / item, tmp_path / 'copy/checkpoints/60' / item)
    step, same, said = resumed(tmp_path / 'copy')
    assert (step, same) == (40, True), item
    assert 'checkpoint 60 is damaged' in said[0]


def test_a_checkpoint_that_is_not_there_is_said(workdir):
  folder = workdir / 'checkpoints'
  shutil.rmtree(folder / '60')
  step, same, said = resumed(workdir)
  assert (step, same) == (40, True)
  assert said == ['checkpoint 60 is not there, going on from 40']


def test_the_best_stays_the_best_without_its_manifest(workdir):
  with contextlib.closing(metrics_log.MetricsLog(workdir, 60)) as log:
    log.write(40, {'valid_nll': 1.0})
  (workdir / 'checkpoints/40/manifest.json').unlink()
  assert saved.best_first(saved.losses(workdir / 'checkpoints')) == [40, 60, 20]


def test_the_latest_and_the_best_are_kept(tmp_path):
  losses = {10: 2.0, 20: 1.0, 30: 3.0, 40: None, 50: 1.0, 60: 4.0, 70: 5.0}
  with opened(tmp_path / 'c', keep=2) as kept:
    seen = []
    for step, nll in losses.items():
      kept.save(state_of(step), nll)
      seen.append(kept.steps())
    kept.wait()
    assert kept.best() == 50  # the later of equals
  assert seen[-3:] == [[40, 50], [50, 60], [50, 60, 70]]
  assert manifest.saved(tmp_path / 'c') == [50, 60, 70]
  with opened(tmp_path / 'c', keep=2) as kept:  # the same when it is opened again
    kept.save(state_of(80), None)
    kept.wait()
    assert kept.steps() == [50, 70, 80]
    kept.forget_after(70)
  assert manifest.saved(tmp_path / 'c') == [50, 70]


def test_what_a_killed_save_left_is_removed(workdir):
  folder = workdir / 'checkpoints'
  (folder / '80.orbax-checkpoint-tmp-1/params').mkdir(parents=True)
  (folder / '20').rename(folder / '20.removed')
  assert saved.done(workdir) == 60
  resumed(workdir)
  assert sorted(p.name for p in folder.iterdir()) == ['40', '60']


def test_a_save_that_reads_otherwise_is_an_error(tmp_path, monkeypatch):
  real = manifest.write

  def write(folder, about):
    real(folder, about)
    flip(arrays(folder / 'params')[0])

  monkeypatch.setattr(manifest, 'write', write)
  with (
    opened(tmp_path / 'c') as kept,
    pytest.raises(UserError, match=r'params/d/.* written a moment ago and reads other'),
  ):
    kept.save(state_of(1), None)


def test_a_model_is_read_from_the_next_best_or_next_latest(workdir, capsys):
  folder = workdir / 'checkpoints'
  read = lambda step: saved.restore_params(  # noqa: E731
    folder, step, LIKE.params, averaged=step == 20
  )
  flip(arrays(folder / '40/params')[0])
  said = []
  order = saved.best_first(saved.losses(folder))
  picked = saved.first_whole(folder, order, read, said.append, 'using')
  assert picked.step == 60 and 'checkpoint 40 is damaged (' in said[0]
  assert said[0].endswith(', using 60')
  np.testing.assert_array_equal(picked.value['wte'], state_of(60).params['wte'])
  np.testing.assert_array_equal(read(20)['wte'], state_of(20).ema['wte'])


def test_the_record_is_cut_where_the_checkpoint_was(workdir):
  about = manifest.read(workdir / 'checkpoints/40')['record']
  said = []
  log = metrics_log.MetricsLog(workdir, 40, about, said.append)
  log.close()
  assert not said
  assert [line['step'] for line in metrics_log.read_metrics(workdir)] == [20, 40]
  for name in ('metrics.jsonl', 'fingerprints.jsonl'):
    assert (workdir / name).stat().st_size == about[name][0]


@pytest.mark.parametrize(
  'harm, says',
  [
    (lambda text: text[: len(text) // 2], 'has only'),
    (lambda text: text.replace('3.0', '9.0'), 'was changed'),
    (lambda text: '{"step": 20, "lo\n' + text, '1 lines that can not be read'),
    (lambda text: '', 'has only 0'),
  ],
)
def test_a_hole_or_a_foreign_line_in_the_record_is_said(workdir, harm, says):
  path, said = workdir / 'metrics.jsonl', []
  path.write_text(harm(path.read_text()))
  before = path.read_text()
  assert resumed(workdir) == (60, True, [])
  about = manifest.read(workdir / 'checkpoints/60')['record']
  metrics_log.MetricsLog(workdir, 60, about, said.append).close()
  assert 'is not as it was at the checkpoint of update 60' in said[0]
  assert says in ' '.join(said)
  metrics_log.read_metrics(workdir)  # can be read again
  assert resumed(workdir) == (60, True, [])
  if 'can not be read' in says:
    assert (workdir / 'metrics.damaged.jsonl').read_text() == before


def test_samples_with_odd_ends_of_lines_are_kept_when_the_log_is_cut(tmp_path):
  with contextlib.closing(metrics_log.MetricsLog(tmp_path, 0)) as log:
    log.write_samples(10, 'a\x0cb\r\u2028c\n\nd')
    whole = (tmp_path / 'samples.txt').read_bytes()
    log.write_samples(20, 'e')
  metrics_log.MetricsLog(tmp_path, 10).close()
  assert (tmp_path / 'samples.txt').read_bytes() == whole


def test_nan_is_not_logged_and_not_read(tmp_path):
  with contextlib.closing(metrics_log.MetricsLog(tmp_path, 0)) as log:
    log.write(1, {'loss': float('nan'), 'lr': 0.5})
  assert json.loads((tmp_path / 'metrics.jsonl').read_text()) == {'step': 1, 'lr': 0.5}
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "loss": NaN, "lr": 0.5}\n')
  assert metrics_log.read_metrics(tmp_path) == [{'step': 1, 'lr': 0.5}]
