"""Training on dialogues: token files of examples, their order, runs, refusals."""

import itertools
import json
import pathlib

import jax
import numpy as np
import pytest
from test_convert import byte_bpe, random_model

from gpt_jax import config, tokenizers
from gpt_jax.config import UserError, length
from gpt_jax.config.experiment import load as experiment
from gpt_jax.data import prepare, windows
from gpt_jax.inference import dialogue
from gpt_jax.runs import example_rows, tokens, train, where
from gpt_jax.runs.evaluate import baselines, held_out_metrics
from gpt_jax.runs.load import load
from gpt_jax.tasks import dialogues
from gpt_jax.training.metrics_log import read_metrics
from gpt_jax.weights import convert

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORDS = 'the cat dog sees hears a bird and then we you they'.split()
LONGEST, T = 24, 64


def write(path, number, seed=0):
  """Writes dialogues of 1 to 6 turns, some of which weigh 0; returns them."""
  rng, written = np.random.default_rng(seed), []
  for i in range(number):
    turns = [
      dialogues.Turn(
        f'{i} ' + ' '.join(rng.choice(WORDS, rng.integers(1, 5))),
        float(rng.random() < 0.8),
      )
      for _ in range(1 + i % 6)
    ]
    written.append(turns)
  path.write_text(''.join(dialogues.to_json(turns) + '\n' for turns in written))
  return written


def a_run(folder, **fields):
  data = {k.removeprefix('data_'): v for k, v in fields.items() if k[:5] == 'data_'}
  model = {k.removeprefix('model_'): v for k, v in fields.items() if k[:6] == 'model_'}
  rest = {k: v for k, v in fields.items() if k[:5] != 'data_' and k[:6] != 'model_'}
  return config.Run(
    **{'steps': 6, 'batch': 8, 'devices': 1, 'eval_every': 3, 'eval_batch': 4} | rest,
    sample_tokens=0,
    log_every=1,
    model=config.Model(**{'L': 1, 'D': 16, 'N': 2, 'T': T} | model),
    data=config.Data(
      **{
        'source': str(folder / 'a.jsonl'),
        'tokenizer': 'bytes',
        'holdout': 0.25,
        'dialogues': LONGEST,
      }
      | data
    ),
    optim=config.Optim(warmup=0, schedule='constant', lr=1e-2),
  )


@pytest.fixture
def place(tmp_path):
  write(tmp_path / 'a.jsonl', 48)
  return tmp_path


def prepared(run, folder):
  folder.mkdir(exist_ok=True)
  return tokens.prepared(run, folder, lambda line: None)


def examples_of(written, held_out, reverse=False):
  """Returns the examples of every fourth dialogue, or of the others, by hand."""
  tokenizer = tokenizers.Bytes()
  found = []
  for i, turns in enumerate(written, 1):
    if (i % 4 == 0) == held_out:
      turns = dialogues.reverse(turns) if reverse else turns
      encoded = [(tokenizer.encode(turn.text), turn.weight) for turn in turns]
      found += dialogues.examples(encoded, tokenizer.eot, LONGEST)
  return found


def unpadded(batch):
  """Yields each row of a batch that is not empty, without its padding, as lists."""
  for ids, y, w in zip(batch.ids_BT, batch.y_BT, batch.w_BT, strict=True):
    if w.any():
      end = int(np.flatnonzero(w)[-1]) + 1  # an example ends with its last target
      assert not (ids[end:].any() or y[end:].any())
      yield ids[:end].tolist(), y[:end].tolist(), w[:end].tolist()


def read(file, rows):
  return windows.examples(file.ids, file.weights, rows)


@pytest.mark.parametrize('reverse', [False, True])
def test_an_epoch_has_each_example_of_the_release_once_token_by_token(place, reverse):
  written = write(place / 'a.jsonl', 48)
  run = a_run(place, data_reverse=reverse)
  data = prepared(run, place / 'w')
  sizes = length.stages_of(run)
  own = example_rows.Examples(data.train, T)
  rows, number = own.training(sizes, seed=3), len(own.order(sizes).sizes)
  wanted = [list(e[:3]) for e in examples_of(written, False, reverse)]
  epochs = []
  for epoch in range(2):
    batches = [read(data.train, rows(epoch * number + i)) for i in range(number)]
    assert {batch.ids_BT.shape[0] for batch in batches} == {8}
    epochs.append([list(row) for batch in batches for row in unpadded(batch)])
  assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(wanted)
  assert epochs[0] != epochs[1]
  # Of like lengths: what is short is not padded to the longest.
  assert len({batch.ids_BT.shape[1] for batch in batches}) >= 3
  held = example_rows.Examples(data.valid, T).held_out(4)
  found = [list(row) for each in held for row in unpadded(read(data.valid, each))]
  assert sorted(found) == sorted(
    list(e[:3]) for e in examples_of(written, True, reverse)
  )


def test_targets_and_bytes_are_those_with_a_loss(place):
  written = write(place / 'a.jsonl', 48)
  data = prepared(a_run(place), place / 'w')
  wanted = examples_of(written, False)
  assert data.train.documents == len(wanted)
  assert data.train.targets == sum(sum(each.weights) for each in wanted)
  # A byte of the text is an id here, and each turn with a loss has an end besides.
  ends = sum(len(each.learnt) for each in wanted)
  assert data.train.bytes == data.train.targets - ends


def test_processes_write_the_same_file(place, monkeypatch):
  one = prepared(a_run(place), place / 'one')
  monkeypatch.setattr(prepare, 'WORTH_PROCESSES', 0)
  two = prepared(a_run(place, data_processes=2), place / 'two')
  assert (one.train.digest, one.valid.digest) == (two.train.digest, two.valid.digest)
  np.testing.assert_array_equal(one.train.weights, two.train.weights)


def test_hosts_read_their_own_rows_of_the_same_batches(place):
  run = a_run(place)
  data = prepared(run, place / 'w')
  own = example_rows.Examples(data.train, T)
  sizes = length.stages_of(run)
  whole = own.training(sizes, 5)
  parts = [
    own.training(sizes, 5, lambda number, i=i: np.arange(number)[i::2])
    for i in range(2)
  ]
  for step in range(12):
    batch = read(data.train, whole(step))
    each = [read(data.train, part(step)) for part in parts]
    for i, part in enumerate(each):
      for name in ('ids_BT', 'y_BT', 'w_BT', 'row_B'):
        np.testing.assert_array_equal(getattr(part, name), getattr(batch, name)[i::2])
  limited = list(own.held_out(4, limit=200))
  covered = sum(int((each.ends - each.starts).sum()) for each in limited)
  assert 100 < covered < 300


def params_of(workdir):
  return jax.tree.map(np.asarray, load(workdir, 'latest').params)


def trained(run, workdir):
  train.train(run, workdir, report=lambda line: None)
  return params_of(workdir)


@pytest.fixture
def few_lengths(tmp_path):
  """Dialogues of two lengths, so that few programs are compiled."""
  talk = [['the cat sees'] * 3 if i % 3 else ['a dog'] * 2 for i in range(40)]
  lines = (
    json.dumps({'turns': [f'{i} {text}' for text in turns]})
    for i, turns in enumerate(talk, 10)
  )
  (tmp_path / 'a.jsonl').write_text('\n'.join(lines))
  return tmp_path


def test_a_resumed_run_is_bitwise_the_same_and_layouts_agree(few_lengths):
  place = few_lengths
  how = {'model_dropout': 0.1, 'eval_tokens': 9, 'eval_every': 9}
  whole = trained(a_run(place, **how), place / 'whole')
  trained(a_run(place, **how, steps=3), place / 'parts')
  again = trained(a_run(place, **how), place / 'parts')
  jax.tree.map(np.testing.assert_array_equal, whole, again)
  how |= {'layout': 'fsdp=2,context=2', 'devices': 4, 'accumulate': 2}
  other = trained(a_run(place, **how, loss_chunk=32), place / 'other')
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), whole, other
  )


def test_seeds_train_together_as_alone(few_lengths):
  place, how = few_lengths, {'eval_tokens': 9, 'eval_every': 9, 'steps': 4}
  runs = [a_run(place, seed=seed, **how) for seed in range(2)]
  members = [train.Member(run, place / f'{i}') for i, run in enumerate(runs)]
  train.train_together(members, report=lambda line: None)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
    trained(runs[1], place / 'alone'),
    params_of(place / '1'),
  )


def test_held_out_loss_is_that_of_each_target_by_itself(place):
  run = a_run(place)
  trained(run, place / 'w')
  model = load(place / 'w')
  written = write(place / 'a.jsonl', 48)
  total = count = 0.0
  for each in examples_of(written, True):
    logits = np.asarray(model.logits(each.ids), np.float64)[:, : model.config.vocab]
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    of_target = logp[np.arange(len(each.ids)), each.targets]
    total -= (of_target * each.weights).sum()
    count += sum(each.weights)
  metrics = held_out_metrics(place / 'w', report=lambda line: None)
  np.testing.assert_allclose(metrics['valid_nll'], total / count, rtol=1e-5)
  assert read_metrics(place / 'w')[-1]['step'] == 6
  # And it is a model like any other.
  assert dialogue.replies(model, ['hi'], num_return=2, max_new_tokens=4)
  with pytest.raises(UserError, match='--baselines are of text, and .* is trained'):
    baselines(place / 'w', lambda line: None)


def test_epochs_say_how_long_a_run_is(place):
  trained(a_run(place, steps=0, epochs=1.5), place / 'w')
  run = a_run(place)
  data = prepared(run, place / 'w')
  order = example_rows.Examples(data.train, T).order(length.stages_of(run))
  assert load(place / 'w', 'latest').step == -(-3 * len(order.sizes) // 2)


def test_a_row_is_found_in_its_file_and_back(place):
  run = a_run(place, steps=12)
  trained(run, place / 'w')
  opened = where.Opened(place / 'w')
  written = write(place / 'a.jsonl', 48)
  for step, row in itertools.product((1, 7), (0, 3)):
    found = where.row_at(opened, step, row)
    number = int(found['name'].rpartition(':')[2])
    text = written[number - 1][0].text
    first = found['tokens'][0]
    ids = opened.data.train.ids[first : first + 40].tolist()
    said = tokenizers.Bytes().decode(ids)
    assert any(said.startswith(turn.text) for turn in written[number - 1]), text
    back = where.find(opened, file='a.jsonl', document=number)
    assert (step, row) in [each for one in back for each in one['rows']]


def test_copies_and_held_out_dialogues_are_dropped(place):
  written = write(place / 'a.jsonl', 20)
  lines = (place / 'a.jsonl').read_text().splitlines(True)
  loud = [turn._replace(text=turn.text.upper()) for turn in written[5]]
  copies = lines[5], dialogues.to_json(loud)
  (place / 'a.jsonl').write_text(''.join([*lines, *copies]))
  (place / 'b.jsonl').write_text(''.join(lines[1::6]))
  run = a_run(place, data_valid=str(place / 'b.jsonl'), data_duplicates='drop')
  said = []
  (place / 'w').mkdir()
  tokens.prepared(run, place / 'w', said.append)
  wanted = 'left out 6 dialogue(s) equal or nearly equal to a held-out or an earlier'
  assert said[1] == f'{wanted} one (5 letter for letter)'
  assert said[0].startswith(f'{place}/a.jsonl: 16 dialogues')


@pytest.mark.parametrize(
  'text, fields, message',
  [
    ('', {}, 'a.jsonl has no dialogue'),
    ('{"turns": []}\n', {}, 'a.jsonl:1: this dialogue has no turn'),
    ('{"turns": ["a", ""]}\n', {}, 'line 1 has an empty turn'),
    (
      '{"turns": ["a", {"text": "b", "weight": 0.5}]}\n',
      {},
      'a.jsonl:1: a turn has weight 0.5, which must be 0 or 1',
    ),
    ('{"turns": ["a"]}\n' * 9, {}, 'no example is left to train on'),
    (
      '{"turns": ["abcdefgh", "abcdefgh"]}\n' * 9,
      {'model_T': 16},
      'has 17 tokens, more than the context of model.T=16',
    ),
    (None, {'data_source': 'hf:x/y'}, 'hf:x/y is no file of dialogues on this'),
  ],
)
def test_what_can_not_be_trained_on_is_refused(tmp_path, text, fields, message):
  if text is not None:
    (tmp_path / 'a.jsonl').write_text(text)
  with pytest.raises(UserError, match=message):
    train.train(a_run(tmp_path, **fields), tmp_path / 'w', report=lambda line: None)


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'data_dialogues': 0, 'data_reverse': True}, 'data.reverse=True must come with'),
    ({'data_field': 'x'}, "data.field='x' must be 'text' with data.dialogues"),
    ({'data_windows': 'random'}, "data.windows='random' must be 'epochs' with"),
    ({'tokens': 100, 'steps': 0}, 'tokens=100 must be 0 with data.dialogues'),
    ({'batch_start': 4, 'batch_ramp': 9}, 'batch_start=4 must be 0 with'),
    ({'model_documents': 'apart'}, "model.documents='apart' must be 'joined' with"),
  ],
)
def test_settings_of_texts_are_refused(tmp_path, fields, message):
  with pytest.raises(UserError, match=message):
    config.check(a_run(tmp_path, **fields))


@pytest.mark.parametrize('name', ['117M', '345M', '762M', '345M,reverse,scratch'])
def test_the_papers_models_are_configs(name):
  run = experiment(f'{ROOT}/experiments/dialogpt/train.py:{name}')
  run.data.source = 'a.tsv'
  config.check(run)
  assert run.data.dialogues == 128 and run.data.reverse == ('reverse' in name)


def test_dialogpts_folder_is_trained_further(place):
  folder = place / 'hf'
  folder.mkdir()
  tokenizer = byte_bpe(folder)
  cfg, params = random_model({'T': 64}, vocab=tokenizer.vocab)
  convert.write(params, cfg, 0.1, tokenizer.eot, folder)
  about = json.loads((folder / 'config.json').read_text())
  about |= {  # as microsoft/DialoGPT-medium has them besides
    'n_ctx': 64,
    'n_special': 0,
    'predict_special_tokens': True,
    'task_specific_params': {'conversational': {'max_length': 1000}},
  }
  (folder / 'config.json').write_text(json.dumps(about))
  run = a_run(place, init_from=str(folder), take_shape=True, steps=1)
  run.model, run.optim.lr, run.optim.final_lr = config.Model(), 0.0, 0.0
  trained(run, place / 'w')
  before, after = load(folder), load(place / 'w')
  jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
  file = tokens.prepared(run, place / 'w').train
  first = file.ids[: int(file.lengths[0])].tolist()
  said = before.tokenizer.decode(first).replace('<|endoftext|>', '|')
  assert first.count(before.tokenizer.eot) >= 2 and said.startswith('1 ')
  # Its loss is that of the model it began with, on the replies alone.
  wanted = held_out_metrics(place / 'w', report=lambda line: None)['valid_nll']
  np.testing.assert_allclose(read_metrics(place / 'w')[-1]['valid_nll'], wanted, 1e-6)
