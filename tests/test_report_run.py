"""The report of one run, of made-up workdirs."""

import json
import re
from html import escape

import pytest

from gpt_jax import config
from gpt_jax.config import UserError
from gpt_jax.reports import markup
from gpt_jax.reports import run as run_report
from gpt_jax.reports.markup import bullets, code, fenced, heading, plain, table
from gpt_jax.runs.workdir import keep_held_out, read_held_out
from gpt_jax.training.metrics_log import seconds_trained

CLOCK = {'input_ms': 0, 'compute_ms': 1, 'other_ms': 0, 'peak_memory_mib': 300.0}


def made_up(workdir, lines, **fields):
  """Writes a workdir of 20 updates with these lines of metrics."""
  run = config.Run(steps=20, batch=3, eval_tokens=0)
  run.model.L, run.model.D, run.model.N, run.model.T = 1, 8, 2, 16
  run.task.name = fields.pop('task', '')
  workdir.mkdir()
  session = {
    'starts': [0],
    'argv': ['launch.py', 'train', '--config=experiments/tiny.py', '--note=a b'],
    'overrides': {},
    'config': config.flat(run),
    'environment': {
      'git': {'commit': 'abcdef1234567890', 'diff': '+x'},
      'python': '3.11.7',
      'versions': {'jax': '0.10.2'},
      'devices': ['cpu: cpu'],
    },
  }
  about = {
    'config': config.flat(run),
    'vocab': 32,
    'data': {'train': '1234', 'files': {}},
    'sessions': [session],
  } | fields
  (workdir / 'run.json').write_text(json.dumps(about))
  write_lines(workdir, lines)
  return workdir


def write_lines(folder, lines):
  folder.mkdir(exist_ok=True)
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / 'metrics.jsonl').write_text(text)


def update(step, seconds, rate):
  return {'step': step, 'loss': 2.0, 'seconds': seconds, 'tokens_per_s': rate} | CLOCK


def judged(step, nll):
  return {'step': step, 'valid_nll': nll, 'valid_ppl': 2**nll, 'valid_bpb': nll * 2}


LINES = [
  update(10, 30.0, 100.0),
  judged(10, 1.25),
  update(15, 5.0, 900.0),  # of a second process
  update(20, 11.0, 500.0),
  judged(20, 1.5),
]


def written(workdir, tmp_path):
  md, page = run_report.write(workdir, tmp_path / 'report')
  return md.read_text(), page.read_text()


def cells(text, *begin):
  found = [[c.strip() for c in row.split('|')[1:-1]] for row in text.splitlines()]
  return [row for row in found if tuple(row[: len(begin)]) == begin]


def test_a_run_says_what_it_lost_wrote_and_cost(tmp_path):
  workdir = made_up(tmp_path / 'tiny', LINES)
  samples = '=== step 10 ===\n[] early\n=== step 20 ===\n[] <b>late</b> ``` `\nend\n'
  samples += '=== step into ===\n'
  (workdir / 'samples.txt').write_text(samples)
  (workdir / 'checkpoints/20/params').mkdir(parents=True)
  text, page = written(workdir, tmp_path)
  assert '# Run tiny' in text and '20 of 20 updates, finished' in text
  assert "python launch.py train --config=experiments/tiny.py '--note=a b'" in text
  assert cells(text, 'best while training') == [
    ['best while training', '10', '1.2500', '2.38', '2.5000']
  ]
  assert cells(text, 'last while training')[0][1:3] == ['20', '1.5000']
  assert 'on all of it' in text and 'evaluation are in the seconds' in text
  assert 'after 20 updates' in text and 'early' not in text
  # A longer fence than any in the text.
  assert '````\n[] <b>late</b> ``` `\nend\n=== step into ===\n````' in text
  assert '<pre><code>[] &lt;b&gt;late&lt;/b&gt; ``` `\nend\n=== step into ===\n' in page
  # 30 seconds of the first process and 11 of the second, which counted from 0.
  assert '41 seconds (0.01 hours)' in text and 'at most 300 MiB' in text
  assert '500 tokens a second at the median' in text
  assert f'{20 * 3 * 16} tokens' in text  # updates, rows, context
  assert cells(text, 'code') == [['code', '`abcdef123456` and uncommitted changes']]
  assert cells(text, 'sha256 of train') == [['sha256 of train', '`1234`']]
  assert '- `model.D` = `8`' in text and 'model.bias' not in text
  assert (tmp_path / 'report/run_curves.png').read_bytes().startswith(b'\x89PNG')
  assert page.count('data:image/png;base64,') == 1
  assert not re.search(r'(src|href)="(?!data:)', page)


def test_seconds_of_processes_add_up():
  lines = [{'step': s, 'seconds': t} for s, t in ((5, 10.0), (10, 14.0), (15, 20.0))]
  assert seconds_trained(lines) == 20  # one process, for all that can be seen
  assert seconds_trained(lines, [0, 5]) == 30  # the second began after update 5
  assert seconds_trained(lines, [0, 7]) == 30  # whose last updates were not recorded
  assert seconds_trained(lines, [0, 15]) == 20  # and did nothing
  assert (
    seconds_trained([{'step': 5, 'seconds': 9.0}, {'step': 9, 'seconds': 2.0}]) == 11
  )


def test_what_was_measured_of_all_text_is_kept_and_shown(tmp_path):
  workdir = made_up(tmp_path / 'tiny', LINES)
  own = {'text': '', 'text_sha256': 'a', 'int8': False, **judged(10, 1.3)}
  keep_held_out(workdir, own | {'baselines': {'xz -9': 3.5}})
  keep_held_out(workdir, own | {'baselines': {}})  # without them: they are kept
  keep_held_out(workdir, own | {'int8': True, 'valid_nll': 1.4, 'baselines': {}})
  other = {'text': 'other', 'text_sha256': 'b'}
  keep_held_out(workdir, own | other | {'baselines': {}})
  assert [line['int8'] for line in read_held_out(workdir)] == [False, True, False]
  text, _ = written(workdir, tmp_path)
  assert 'trained for 0 of 20 updates, not finished' in text
  assert cells(text, 'all of it') == [
    ['all of it', '10', '1.3000', '2.46', '2.6000'],
  ]
  assert cells(text, 'xz -9') == [['xz -9', '-', '-', '-', '3.5000']]
  assert cells(text, 'all of it in 8 bits')[0][2] == '1.4000'
  assert cells(text, 'all of other')[0][2] == '1.3000'


def test_a_fine_tuning_has_its_seeds_with_intervals_and_their_mean(tmp_path):
  workdir = made_up(tmp_path / 'tuned', [update(20, 4.0, 100.0)], task='sst2')
  with pytest.raises(UserError, match='is a seed of a fine-tuning; report'):
    run_report.write(workdir, tmp_path / 'report')
  (workdir / 'groups.json').write_text('[[3, 4]]')
  for seed in (3, 4):
    write_lines(workdir / f'seed_{seed}', [{'step': 10, 'accuracy': 0.5 + seed / 10}])
  text, _ = written(workdir, tmp_path)
  assert 'trained on sst2' in text and 'No results yet' in text
  seeds = {
    str(seed): {'step': 10, 'accuracy': value, 'intervals': {'accuracy': [0.1, 0.95]}}
    for seed, value in ((3, 0.8), (4, 0.9))
  }
  over = {'mean': 0.85, 'median': 0.85, 'std': 0.07, 'low': 0.2, 'high': 1.0}
  found = {'examples': 872, 'seeds': seeds, 'over_seeds': {'accuracy': over}}
  (workdir / 'results.json').write_text(json.dumps(found))
  text, page = written(workdir, tmp_path)
  assert cells(text, 'accuracy') == [
    ['accuracy', 'seed 3', '10', '0.8000 [0.1000, 0.9500]', '-'],
    ['accuracy', 'seed 4', '10', '0.9000 [0.1000, 0.9500]', '-'],
    ['accuracy', '**mean of seeds**', '-', '0.8500 [0.2000, 1.0000]', '0.0700'],
    ['accuracy', 'GPT-1, published (test)', '-', '0.913', '-'],
    ['accuracy', 'GPT-1 without pre-training, published (test)', '-', '0.840', '-'],
  ]
  assert '<strong>mean of seeds</strong>' in page


def test_a_run_without_metrics_is_told_to_train(tmp_path):
  with pytest.raises(UserError, match='no metrics to report yet'):
    run_report.write(made_up(tmp_path / 'tiny', []), tmp_path / 'report')
  assert not (tmp_path / 'report').exists()


def test_both_forms_of_a_page_hold_the_same(tmp_path):
  blocks = [
    heading('A < B', 1),
    'see `x < y` and **this**',
    f'{code("a/**/b, c/**/d")}, {code("x`y")}',
    bullets(['one', '`two`']),
    fenced('a\n b'),
    table(['name', 'value'], [['p|q', '1']], 1),
  ]
  md, page = markup.write(tmp_path / 'new', 'both', blocks, {'gone': None})
  assert md.read_text() == (
    '# A < B\n\nsee `x < y` and **this**\n\n`a/**/b, c/**/d`, `` x`y ``\n\n'
    '- one\n- `two`\n\n```\na\n b\n```\n\n'
    '| name | value |\n| --- | ---: |\n| p\\|q | 1 |\n'
  )
  text = page.read_text()
  assert '<title>A &lt; B</title>' in text and '<h1>A &lt; B</h1>' in text
  assert '<code>x &lt; y</code> and <strong>this</strong>' in text
  assert '<code>a/**/b, c/**/d</code>, <code>x`y</code>' in text
  assert '<li>one</li>\n<li><code>two</code></li>' in text
  assert '<pre><code>a\n b\n</code></pre>' in text
  assert '<td>p|q</td>\n<td style="text-align:right">1</td>' in text


HOSTILE = (
  '<script>alert(1)</script>',
  'a & b &lt; &amp;',
  '`tick` ``two`` \\ end',
  '[link](http://x.org) ![image](http://x.org/a.png) <http://x.org>',
  '*a* **b** _c_ a_b_c',
  'p|q \\| r',
  '# no heading',
  'http://x.org/a?b=c&d=e',
)


@pytest.mark.parametrize('text', HOSTILE)
def test_what_a_user_named_is_shown_as_it_is(text):
  blocks = [
    heading(plain(text), 1),
    f'x {code(text)} y',
    bullets([plain(text)]),
    fenced(f'{text}\n```\n{text}'),
    table([plain(text), 'b'], [[plain(text), code(text)]], 2),
  ]
  page = markup.page('\n\n'.join(blocks) + '\n', {})
  body = page[page.index('<body>') :]
  own = escape(text)
  assert f'<title>{escape(text, quote=True)}</title>' in page
  assert f'<h1>{own}</h1>' in body and f'<li>{own}</li>' in body
  assert f'<p>x <code>{own}</code> y</p>' in body
  assert f'<pre><code>{own}\n```\n{own}\n</code></pre>' in body
  assert f'<th>{own}</th>' in body and f'<td>{own}</td>' in body
  assert f'<td><code>{own}</code></td>' in body
  tags = set(re.findall(r'<(\w+)', body))
  assert tags <= set('body h1 p code ul li pre table thead tbody tr th td'.split())


def test_a_run_of_any_name_has_its_report(tmp_path):
  workdir = made_up(tmp_path / 'a<b>&`c`*d*', LINES)
  _, page = written(workdir, tmp_path)
  assert '<h1>Run a&lt;b&gt;&amp;`c`*d*</h1>' in page and '<b>' not in page


def test_no_mark_of_a_user_s_text_is_markdown_or_html():
  assert plain('<b>*x*</b> [a](b) `c`') == r'\<b\>\*x\*\</b\> \[a\](b) \`c\`'
  assert plain('# a_b _c_\n\\ &') == r'\# a_b \_c\_ \\ \&'
