"""The layout that is proposed, against a search by hand."""

import dataclasses
import math

import jax
import pytest
from updates import make_run

from gpt_jax import config
from gpt_jax.model.gpt_config import GPTConfig
from gpt_jax.runs import cost, layout_choice
from gpt_jax.training.sharding import Layout

KIND = 'h100'


def wide(**fields):
  """Returns a run of two layers whose state is most of what it needs, and its model."""
  run = make_run(model_D=512, model_N=4, model_L=2, model_T=16, **fields)
  run.batch, run.optim = 64, config.Optim()
  return run, GPTConfig.of(run.model, 120)


def everything(run, cfg, number):
  """Yields each layout's axes, schedule, bytes of a device, and seconds of sending."""
  for data in range(1, number + 1):
    for fsdp in range(1, number + 1):
      tensor = number // (data * fsdp)
      if data * fsdp * tensor != number or tensor not in (1, 2, 4):
        continue
      for whole in (True, False) if fsdp > 1 else (True,):
        layout = f'data={data},fsdp={fsdp},tensor={tensor}'
        other = dataclasses.replace(run, layout=layout)
        over = dataclasses.replace(Layout.imagined(other, number), whole=whole)
        need = cost.update_bytes(other, cfg, over, flash=True)
        sent = cost.communication_bytes(other, cfg, over)
        # Tensor is innermost, then fsdp: of 16 GPUs 8 are a host.
        ways = {'tensor': tensor, 'fsdp': fsdp, 'data': data, 'context': 1}
        seconds, inner = 0.0, 1
        for axis, size in ways.items():
          here = min(size, max(1, 8 // inner))
          rate = 450e9 if here == size else min(450e9, here * 50e9)
          given = sum(n for what, n in sent.items() if what.endswith(f'over {axis}'))
          seconds, inner = seconds + given / (0.8 * rate), inner * size
        often = data > 1 and fsdp > 1 and tensor > 1 and not over.once
        yield (data, fsdp, tensor), over.once, need, math.inf if often else seconds


def test_the_best_layout_is_that_of_a_search_by_hand():
  run, cfg = wide(model_scan=True, model_remat='block')
  known, chosen = list(everything(run, cfg, 16)), set()
  for share in 0.3, 0.6, 2:
    limit = share * 16 * cost.parameter_count(cfg)
    found = layout_choice.best(run, cfg, 16, KIND, limit)
    assert found.need == cost.update_bytes(found.run, cfg, found.over, flash=True)
    assert found.need <= limit
    wanted = min(seconds for _, _, need, seconds in known if need <= limit)
    assert found.seconds == pytest.approx(wanted)
    chosen.add((found.run.layout, found.over.once))
  assert len(chosen) > 1


def test_where_nothing_fits_the_smallest_is_named():
  run, cfg = wide()
  found = layout_choice.best(run, cfg, 8, KIND, 1000.0)
  # All of the weights, moments and gradients of two micro-batches, divided by 8.
  least = (4 + 8 + 8) * cost.parameter_count(cfg) / 8
  assert found.need == pytest.approx(least, rel=0.01) and not found.over.once


def test_gathers_over_several_planes_of_a_slice_take_twice_as_long():
  planes = {'v5p:2x4x4': 8, 'v4:4x4x4': 16, 'v5e:4x4': 0, 'h100:16': 0, 'h100': 0}
  assert {on: layout_choice.plane_of(on) for on in planes} == planes
  run, cfg = wide()

  def seconds(layout, plane):
    other = dataclasses.replace(run, layout=layout)
    over = dataclasses.replace(Layout.imagined(other, 16), whole=True)
    return layout_choice.sending(other, cfg, over, 'v5p', plane)

  both = seconds('fsdp=16', 4)
  kept = {what: size for what, size in both.sent.items() if 'summed' in what}
  twice = 2 * sum(both.sent.values()) - sum(kept.values())
  assert both.sent == seconds('fsdp=16', 0).sent
  assert both.seconds == pytest.approx(twice / (0.8 * 200e9))
  # Within a plane, or along a line through planes: as many bytes as there are.
  for layout in 'data=4,fsdp=4', 'fsdp=4,tensor=4':
    assert seconds(layout, 4).seconds == seconds(layout, 0).seconds
  found = [each for each in layout_choice.choices(run, cfg, 16, 'v5p', plane=4)
           if each.over.whole]  # fmt: skip
  assert {each.run.layout: each.seconds for each in found}['fsdp=16'] == both.seconds


def test_rows_at_a_time_divide_the_batch():
  run, cfg = wide()
  found = layout_choice.choices(run, cfg, 8, KIND, (8, 2))
  for choice in found:
    rows = run.batch / choice.over.parts / choice.run.accumulate
    assert rows in (8, 2)
  assert {choice.run.accumulate for choice in found} >= {1, 4}


def test_a_layout_that_sends_much_longer_is_told_of_another():
  run, cfg = wide(layout='tensor=2,data=4')
  placed = Layout.of(run, jax.devices()[:8])
  said = layout_choice.better(run, cfg, placed, 'h100:8', 2**40)
  best = layout_choice.best(run, cfg, 8, KIND, 2**40)
  now = layout_choice.sending(run, cfg, placed, KIND)
  assert now.seconds > best.seconds
  assert said.startswith(f'layout    {best.run.layout} sends ')
  assert said.endswith(f'--config.layout={best.run.layout}')
  # Nor of the same; nor of what sends less, but does not fit: nothing does.
  slow, _ = wide(layout='fsdp=8')
  over = Layout.of(slow, jax.devices()[:8])
  assert layout_choice.better(slow, cfg, over, 'h100:8', 2**40)
  assert not layout_choice.better(slow, cfg, over, 'h100:8', 1000)
  same, _ = wide(layout=best.run.layout)
  over = dataclasses.replace(Layout.of(same, jax.devices()[:8]), whole=True)
  assert not layout_choice.better(same, cfg, over, 'h100:8', 2**40)
