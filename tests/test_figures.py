"""What plots draw: the data of their lines, bars, axes and legends."""

import json

import numpy as np
import pytest
import sweep_files
from sweep_files import made_up

from gpt_jax import config
from gpt_jax.evaluation import statistics
from gpt_jax.reports import compare, figures, sweep_figures, sweep_tables
from gpt_jax.reports import run as run_report
from gpt_jax.reports.figures import Transfer
from gpt_jax.sweep import run


@pytest.fixture
def saved(monkeypatch):
  """The figures that were saved, instead of their files."""
  found = []
  monkeypatch.setattr(figures, 'save', lambda figure, target: found.append(figure))
  return found


def data(line):
  return [list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))]


def bars(container):
  """Returns (place, low, high) of each bar of an errorbar."""
  (verticals,) = container[2]
  return [
    (ends[0][0], ends[0][1], ends[1][1]) for ends in map(list, verticals.get_segments())
  ]


def lines_of(folder, lines):
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / 'metrics.jsonl').write_text(text)


def test_loss_curves_are_those_of_the_log(tmp_path):
  training = [{'step': step, 'loss': 5.0 - step / 10} for step in (2, 4, 6, 8)]
  judged = [
    {'step': 4, 'valid_nll': 4.5, 'valid_ppl': 90.0, 'valid_bpb': 2.5},
    {'step': 8, 'valid_nll': 4.25, 'valid_ppl': 70.1, 'valid_bpb': 2.25},
  ]
  lines_of(tmp_path, [*training[:2], judged[0], *training[2:], judged[1]])
  (axes,) = figures.loss_figure(tmp_path).axes
  batch, held_out = axes.lines
  assert data(batch) == [[2, 4, 6, 8], [4.8, 4.6, 4.4, 4.2]]
  assert data(held_out) == [[4, 8], [4.5, 4.25]]
  assert [text.get_text() for text in axes.get_legend().texts] == [
    'training (a batch)',
    'held-out text',
  ]
  (note,) = axes.texts
  assert note.get_text() == '4.250\n2.250 bits/byte' and note.xy == (8, 4.25)
  assert (axes.get_xlabel(), axes.get_ylabel()) == ('updates', 'loss [nats/token]')


def test_curves_of_a_task_are_of_its_dev_loss(tmp_path):
  lines_of(
    tmp_path,
    [
      {'step': 5, 'dev_nll': 0.75, 'accuracy': 0.5},
      {'step': 10, 'dev_nll': 0.5, 'accuracy': 0.875},
    ],
  )
  (axes,) = figures.loss_figure(tmp_path).axes
  (dev,) = axes.lines
  assert data(dev) == [[5, 10], [0.75, 0.5]]
  assert axes.texts[0].get_text() == '0.500\n0.875 accuracy'
  assert axes.get_ylabel() == 'loss of the task [nats/example]'


def test_a_fine_tuning_has_a_curve_for_each_seed(tmp_path):
  for seed, values in ((0, [0.5, 0.75]), (1, [0.625, 0.5])):
    (tmp_path / f'seed_{seed}').mkdir()
    lines_of(
      tmp_path / f'seed_{seed}',
      [
        {'step': 5, 'loss': 2.0},
        *({'step': 5 * i, 'dev_nll': 1.0, 'accuracy': v} for i, v in enumerate(values)),
      ],
    )
  run = config.Run(task=config.Task(name='sst2'))
  (axes,) = run_report._dev_curves(tmp_path, run).axes
  assert [data(line) for line in axes.lines] == [
    [[0, 5], [0.5, 0.75]],
    [[0, 5], [0.625, 0.5]],
  ]
  assert [line.get_label() for line in axes.lines] == ['seed 0', 'seed 1']
  assert axes.get_ylabel() == 'accuracy on dev'


def test_zero_shot_scores_lie_between_chance_and_reference(saved):
  about = {'metric': 'accuracy', 'chance': 0.5, 'reference': 0.9}
  lines = [
    about | {'task': task, 'step': step, 'value': v, 'low': v - 0.1, 'high': v + 0.2}
    for task, step, v in [
      ('a', 400, 0.7),
      ('a', 100, 0.5),
      ('b', 100, 0.6),
      ('b', 200, 0.9),
    ]
  ]
  figures.zero_shot_curves(lines, 'x.png')
  (axes,) = saved[0].axes
  a, b = (line for line in axes.lines if not line.get_label().startswith('_'))
  assert data(a) == [[100, 400], pytest.approx([0, 0.5])]
  assert data(b) == [[100, 200], pytest.approx([0.25, 1])]
  assert a.get_label() == 'a (accuracy, 0.5 to 0.9)'
  # Bars of the last checkpoint of each task, beside it.
  for number, (container, value) in enumerate(
    zip(axes.containers, (0.5, 1), strict=True)
  ):
    ((place, low, high),) = bars(container)
    assert place == pytest.approx([400, 200][number] * 1.05 ** (number + 1))
    assert (low, high) == pytest.approx((value - 0.25, value + 0.5))
  (chance,) = (line for line in axes.lines if line.get_linestyle() == ':')
  assert set(chance.get_ydata()) == {0} and axes.get_xscale() == 'log'


def test_a_transfer_has_means_intervals_and_its_seeds(saved):
  def transfer(layers, values):
    over = statistics.spread(values)
    return Transfer('cola', 'matthews', layers, values, over, 9)

  given = [transfer(None, [0.1]), transfer(0, [0.2]), transfer(2, [0.4, 0.5, 0.3])]
  figures.transfer_curve(given, 'x.png')
  (axes,) = saved[0].axes
  (container,) = axes.containers
  assert data(container[0]) == [[-1, 0, 2], pytest.approx([0.1, 0.2, 0.4])]
  over = given[2].over_seeds
  assert bars(container)[2] == pytest.approx((2, over['low'], over['high']))
  (dots,) = (line for line in axes.lines if line.get_marker() == '.')
  assert data(dots) == [[2.15] * 3, [0.4, 0.5, 0.3]]
  ticks = [text.get_text() for text in axes.get_xticklabels()]
  assert ticks == ['nothing', '0', '2']
  assert (axes.get_title(), axes.get_ylabel()) == ('cola', 'dev matthews')


def test_two_runs_are_drawn_at_equal_tokens_flops_and_seconds(saved):
  def made(number):
    base = np.array([1.0, 2.0, 3.0]) * number
    return compare.Curve(base, 10 * base, 1e6 * base, base / 2, base, 5 - base)

  runs = compare.Comparison(
    ('one', 'two'), [], [], None, 'why', curves=(made(1), made(1.5))
  )
  compare.plot(runs, 'x.png')
  panels = saved[0].axes
  assert [axes.get_xlabel() for axes in panels] == [
    'training tokens',
    'training FLOPs',
    'seconds of training',
  ]
  for axes, field in zip(panels, ('tokens', 'flops', 'seconds'), strict=True):
    for line, each in zip(axes.lines, runs.curves, strict=True):
      assert data(line) == [list(getattr(each, field)), list(each.bpb)]
    assert [line.get_label() for line in axes.lines] == ['one', 'two']
  assert panels[0].get_ylabel() == 'held-out text [bits/byte]'


def test_a_sweep_is_drawn_run_by_run_and_by_its_best_settings(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  sweep_files.write(tmp_path)
  sweep = sweep_files.planned(
    monkeypatch,
    "RUNS = grid({'optim.lr': [1e-3, 1e-2], 'model.D': [8, 16], 'seed': [0, 1, 2]})",
    tmp_path / 'sweep',
  )
  with run.opened(sweep, shared=False):
    pass
  best = {}
  for i, entry in enumerate(sweep.entries):
    nll = 1.0 + 0.1 * (i * i % 11)
    best.setdefault((entry.run.optim.lr, entry.run.model.D), []).append(nll)
    made_up(entry, (3.0, nll, nll + 0.5))
  runs = sweep_tables.collected(sweep)
  (axes,) = sweep_figures.curves(sweep, runs).axes
  assert len(axes.lines) == 12
  for line, each in zip(axes.lines, runs, strict=True):
    nll = each.result.best_nll
    assert data(line) == [[400, 800, 1200], [3.0, nll, nll + 0.5]]
    assert line.get_linestyle() == {8: '-', 16: '--'}[each.entry.run.model.D]
  colours = {
    each.entry.run.optim.lr: line.get_color()
    for line, each in zip(axes.lines, runs, strict=True)
  }
  assert len(set(colours.values())) == 2
  assert [text.get_text() for text in axes.get_legend().texts] == [
    *('optim.lr = 0.001', 'optim.lr = 0.01', 'model.D = 8', 'model.D = 16')
  ]
  (axes,) = sweep_figures.loss(sweep, runs).axes
  assert axes.get_xlabel() == 'optim.lr' and axes.get_xscale() == 'log'
  for container, D in zip(axes.containers, (8, 16), strict=True):
    over = [statistics.spread(best[lr, D]) for lr in (1e-3, 1e-2)]
    assert list(container[0].get_ydata()) == [each['mean'] for each in over]
    assert list(container[0].get_xdata()) == pytest.approx([1e-3, 1e-2], rel=0.1)
    for (_, low, high), each in zip(bars(container), over, strict=True):
      assert (low, high) == pytest.approx((each['low'], each['high']))
  dots = [data(line) for line in axes.lines if line.get_marker() == '.']
  assert sorted(y for _, ys in dots for y in ys) == sorted(sum(best.values(), []))
