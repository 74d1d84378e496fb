"""lm-eval through our adapter beside its own Hugging Face model, on one model.

Live, in `make parity`; test_lm_eval_requests.py has recorded answers for CI.
"""

import json
import os
import pathlib
import sys

import numpy as np
import pytest

WHY = 'is not installed: pip install -r benchmarks/requirements.txt'
torch = pytest.importorskip('torch', reason=f'torch {WHY}')
os.environ['HF_HUB_OFFLINE'] = os.environ['HF_DATASETS_OFFLINE'] = '1'
transformers = pytest.importorskip('transformers', reason=f'transformers {WHY}')
lm_eval = pytest.importorskip('lm_eval', reason=f'lm_eval {WHY}')
pytest.importorskip('accelerate', reason=f'accelerate {WHY}')

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

GOLDENS = pathlib.Path(__file__).resolve().parent / 'goldens'
sys.path.append(str(GOLDENS))
import make_lm_eval  # noqa: E402

from gpt_jax.cli.lm_eval import GPTJax, main  # noqa: E402

T, DOCS = 64, 24
ACC = [{'metric': 'acc'}, {'metric': 'acc_norm'}]
BEFORE, LAST = "{{text.split(' ')[:-1]|join(' ')}}", "{{' '+text.split(' ')[-1]}}"
# What lm-eval asks in its own tasks, of the files at hand.
TASKS = {
  'hellaswag': {
    'file': 'hellaswag/validation_sample.jsonl',
    'output_type': 'multiple_choice',
    'doc_to_text': '{{query}}',
    'doc_to_target': 'gold',
    'doc_to_choice': 'choices',
    'metric_list': ACC,
  },
  'piqa': {
    'file': 'piqa/validation.jsonl',
    'output_type': 'multiple_choice',
    'doc_to_text': 'Question: {{goal}}\nAnswer:',
    'doc_to_target': 'label',
    'doc_to_choice': '{{[sol1, sol2]}}',
    'metric_list': ACC,
  },
  'arc_easy': {
    'file': 'arc_easy/validation.jsonl',
    'output_type': 'multiple_choice',
    'doc_to_text': 'Question: {{question}}\nAnswer:',
    'doc_to_target': '{{choices.label.index(answerKey)}}',
    'doc_to_choice': '{{choices.text}}',
    'fewshot_split': 'test',
    'num_fewshot': 1,
    'metric_list': ACC,
  },
  'lambada': {
    'file': 'lambada/lambada_test.jsonl',
    'output_type': 'loglikelihood',
    'doc_to_text': BEFORE,
    'doc_to_target': LAST,
    'metric_list': [{'metric': 'perplexity'}, {'metric': 'acc'}],
  },
  'passages': {
    'file': 'lambada/lambada_test.jsonl',
    'output_type': 'loglikelihood_rolling',
    'doc_to_text': '',
    'doc_to_target': '{{text}}',
    'metric_list': [{'metric': 'word_perplexity'}, {'metric': 'bits_per_byte'}],
  },
  'written': {
    'file': 'lambada/lambada_test.jsonl',
    'output_type': 'generate_until',
    'doc_to_text': BEFORE,
    'doc_to_target': LAST,
    'generation_kwargs': {'until': ['\n', 'ing', ' a'], 'max_gen_toks': 12},
    'metric_list': [{'metric': 'exact_match'}],
  },
}


@pytest.fixture(scope='module')
def folder(shared_data, tmp_path_factory):
  """A small random GPT-2 with GPT-2's vocabulary, as transformers saves it."""
  folder, vocab = tmp_path_factory.mktemp('gpt2'), shared_data / 'vocab/gpt2'
  torch.manual_seed(0)
  # Large weights, so that what is likely depends on the context.
  sizes = {'n_layer': 2, 'n_embd': 64, 'n_head': 4, 'n_positions': T}
  net = transformers.GPT2LMHeadModel(
    transformers.GPT2Config(**sizes, initializer_range=0.15)
  )
  net.save_pretrained(folder)
  transformers.GPT2Tokenizer(
    vocab=str(vocab / 'vocab.json'), merges=str(vocab / 'merges.txt')
  ).save_pretrained(folder)
  return folder


@pytest.fixture(scope='module')
def ours(folder):
  return GPTJax(str(folder))


@pytest.fixture(scope='module')
def theirs(folder):
  return HFLM(pretrained=str(folder), device='cpu', dtype='float32', batch_size=8)


@pytest.fixture(scope='module')
def passages(shared_data):
  lines = (shared_data / 'tasks/lambada/lambada_test.jsonl').open(encoding='utf-8')
  return [json.loads(line)['text'] for line, _ in zip(lines, range(160), strict=False)]


@pytest.fixture(scope='module')
def tasks(shared_data, tmp_path_factory):
  """A folder of tasks in lm-eval's form, each of a few dozen questions."""
  folder = tmp_path_factory.mktemp('tasks')
  for name, task in TASKS.items():
    task = dict(task)
    lines = (shared_data / 'tasks' / task.pop('file')).open(encoding='utf-8')
    few = folder / f'{name}.jsonl'
    # An answer must fit into the small context.
    short = [line for line in lines if len(line) < 600]
    few.write_text(''.join(short[:DOCS]), encoding='utf-8')
    about = task | {
      'task': f'our_{name}',
      'dataset_path': 'json',
      'dataset_kwargs': {
        'data_files': {'test': [str(few)]},
        'cache_dir': str(folder / 'cache'),
      },
      'test_split': 'test',
    }
    (folder / f'{name}.yaml').write_text(json.dumps(about))  # JSON is YAML
  return folder


def asked(kind, *arguments):
  return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


def assert_same(found, wanted):
  """Asserts that log p is within 1e-3 nats and that greedy decoding agrees."""
  logp, greedy = zip(*found, strict=True)
  their_logp, their_greedy = zip(*wanted, strict=True)
  np.testing.assert_allclose(logp, their_logp, atol=1e-3, rtol=0)
  assert greedy == their_greedy


def test_likelihoods_are_those_of_lm_eval(ours, theirs, passages):
  random = np.random.default_rng(0)
  arguments = []
  for i, passage in enumerate(passages):
    words = passage.split(' ')
    cut = int(random.integers(0, len(words)))
    end = cut + int(random.integers(1, 25))
    context, option = ' '.join(words[:cut]), ' '.join(words[cut:end])
    if cut and i % 4:
      option = ' ' + option
    elif cut and i % 8:
      context += ' '
    arguments.append((context, option))
  assert '' in [context for context, _ in arguments]
  assert sum(len(ours.tok_encode(' '.join(x))) > T + 1 for x in arguments) > 40
  requests = asked('loglikelihood', *arguments)
  assert_same(
    ours.loglikelihood(requests, disable_tqdm=True),
    theirs.loglikelihood(requests, disable_tqdm=True),
  )


def test_what_greedy_decoding_gives_is_known_as_such(ours, theirs, passages):
  requests = []
  for i, passage in enumerate(passages[:40]):
    ids = ours.tok_encode(passage)[: 4 + i]
    with torch.no_grad():
      made = theirs.model.generate(torch.tensor([ids]), max_new_tokens=1 + i % 9)
    best = made[0, len(ids) :].tolist()
    if i % 3 == 0:
      best[-1] -= 1
    requests.append((('', ''), ids, best))
  found = ours._loglikelihood_tokens(requests, disable_tqdm=True)
  assert_same(found, theirs._loglikelihood_tokens(requests, disable_tqdm=True))
  assert [greedy for _, greedy in found] == [bool(i % 3) for i in range(40)]


def test_rolling_likelihoods_are_those_of_lm_eval(ours, theirs, passages):
  texts = ['', 'a', passages[0], ' '.join(passages[1:4]), ' '.join(passages[4:12])]
  requests = asked('loglikelihood_rolling', *[(text,) for text in texts])
  found = ours.loglikelihood_rolling(requests, disable_tqdm=True)
  wanted = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
  windows = [1, 1, 1, 3, 8]
  limits = [1e-3 * most for most in windows]  # a window is a request
  assert np.all(np.abs(np.subtract(found, wanted)) <= limits)


def test_scores_of_tasks_are_those_of_lm_eval(ours, theirs, tasks):
  names = [f'our_{name}' for name in TASKS]
  found, wanted = (
    lm_eval.simple_evaluate(
      model,
      tasks=names,
      task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
      bootstrap_iters=0,
    )
    for model in (ours, theirs)
  )
  for name in names:
    here, there = (
      {key: x for key, x in results['results'][name].items() if not isinstance(x, str)}
      for results in (found, wanted)
    )
    assert here == pytest.approx(there, rel=1e-5)
    for metric in TASKS[name.removeprefix('our_')]['metric_list']:
      assert f'{metric["metric"]},none' in here
    assert len(found['samples'][name]) == DOCS
  texts, their_texts = (
    [sample['resps'] for sample in results['samples']['our_written']]
    for results in (found, wanted)
  )
  assert texts == their_texts
  assert len({str(text) for text in texts}) > DOCS / 2


def test_answers_end_where_the_task_says(ours, theirs, passages):
  arguments = [
    (passages[0], {'until': ['\n'], 'max_gen_toks': 20}),
    (passages[1], {'until': 'e', 'max_new_tokens': 3}),
    (passages[2], {'until': [], 'max_gen_toks': 5, 'do_sample': False}),
    ('Short', {'until': ['\n'], 'max_gen_toks': 20, 'temperature': 0.0}),
  ]
  requests = asked('generate_until', *arguments)
  wanted = theirs.generate_until(requests, disable_tqdm=True)
  assert ours.generate_until(requests, disable_tqdm=True) == wanted


def test_the_recorded_answers_are_those_of_lm_eval_here_and_now():
  golden, here = json.loads(make_lm_eval.PATH.read_text('utf-8')), make_lm_eval.made()
  assert {**golden, 'made with': 0, 'requests': 0} == {
    **here,
    'made with': 0,
    'requests': 0,
  }
  for wanted, found in zip(golden['requests'], here['requests'], strict=True):
    assert (wanted['kind'], wanted['args']) == (found['kind'], list(found['args']))
    if wanted['kind'] == 'generate_until':
      assert wanted['answer'] == found['answer']
    else:
      assert found['answer'] == pytest.approx(wanted['answer'], abs=1e-3)


def test_the_command_line_is_that_of_lm_eval(folder, tasks, monkeypatch, capsys):
  flags = (
    f'--model_args path={folder} --tasks our_piqa --include_path {tasks} --limit 4'
  )
  monkeypatch.setattr(sys, 'argv', ['harness', *flags.split()])
  main()
  assert 'acc_norm' in capsys.readouterr().out
