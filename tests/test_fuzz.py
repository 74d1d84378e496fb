"""Damaged files of every kind: read, or refused with a message. See benchmarks/fuzz.py.

Then the damage that fuzzing seldom makes: sizes that no file has, and bombs.
"""

import collections
import gzip
import json
import random
import tarfile

import numpy as np
import pytest
import zstandard

from benchmarks import fuzz, fuzz_readers
from gpt_jax import config, files, tokenizers
from gpt_jax.config import UserError
from gpt_jax.data import prepare, sources, token_files
from gpt_jax.inference import hugging_face
from gpt_jax.runs import finetune_results
from gpt_jax.tasks import prompted_files
from gpt_jax.tasks.prompted import TASKS
from gpt_jax.weights import config_json, convert, openai_files

INPUTS = 3_000


@pytest.fixture(scope='module')
def readers():
  return fuzz_readers.readers(hub=False)


def test_every_reader_reads_its_valid_files(readers, tmp_path):
  for reader in readers:
    for name, data in reader.files.items():
      path = tmp_path / reader.name / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(data)
    assert fuzz.tried(reader, tmp_path / reader.name) == ('read', ''), reader.name


def test_damaged_files_are_read_or_refused_with_a_message(readers, tmp_path):
  counts, failures = fuzz.run(
    readers, INPUTS, seed=0, folder=tmp_path / 'input', report=lambda text: None
  )
  assert not failures
  every = sum(counts.values(), collections.Counter())
  assert every.total() == INPUTS and every['refused'] > INPUTS // 4 < every['read'] * 2


def test_the_fuzzer_tells_failures_apart(tmp_path):
  def reader(read):
    return fuzz.Reader('made/up', {'a': b'x'}, read)

  def panic(folder):
    raise BaseException('a panic of Rust')

  def refuse(folder):
    raise UserError('x' * 1001)

  held = []
  for read, outcome in (
    (lambda folder: held.append(b'x' * (600 << 20)), 'memory'),
    (lambda folder: [][0], 'traceback'),
    (panic, 'traceback'),
    (refuse, 'long'),
    (lambda folder: 1, 'read'),
  ):
    assert fuzz.tried(reader(read), tmp_path)[0] == outcome
    held.clear()


def test_an_input_follows_from_reader_number_and_seed(tmp_path):
  reader = fuzz.Reader('made/up', {'a': b'{"a": [1, 2]}' * 9}, lambda folder: None)
  made = []
  for number, seed in ((1, 0), (1, 0), (2, 0), (1, 1)):
    fuzz.place(reader, number, seed, tmp_path / 'x')
    made.append((tmp_path / 'x/a').read_bytes())
  assert made[0] == made[1] and len(set(made)) == 3
  kept = [fuzz.damaged(b'{"a": [1, 2]}', random.Random(i)) for i in range(300)]
  assert len(set(kept)) > 150


# Sources


def texts(path, **how):
  return [part.text for part in sources.parts(str(path), **how)]


def test_a_zst_bomb_is_streamed(tmp_path):
  path = tmp_path / 'a.txt.zst'
  path.write_bytes(zstandard.compress(bytes(1 << 27)))
  assert path.stat().st_size < 1 << 16
  before = fuzz._resident()
  with open('/proc/self/clear_refs', 'w') as clear:
    clear.write('5')
  assert sum(len(part.text) for part in sources.parts(str(path))) == 1 << 27
  assert fuzz._peak() - before < 100 << 20


def test_a_line_of_a_source_that_is_too_long_is_named(tmp_path):
  path = tmp_path / 'a.jsonl.gz'
  path.write_bytes(gzip.compress(b'{"text": "a"}\n{"text": "' + b'a' * (40 << 20)))
  with pytest.raises(UserError, match='gz: line 2 is longer than 33,554,432'):
    texts(path)


def test_a_zst_file_that_wants_much_memory_says_how_to_pack_it(tmp_path):
  frame = bytes.fromhex('28b52ffd 00 90')  # a window of 256 MB
  (tmp_path / 'a.txt.zst').write_bytes(frame + bytes([1, 0, 0]))
  with pytest.raises(UserError, match='a window of more than 128 MB; pack it again'):
    texts(tmp_path / 'a.txt.zst')


def test_json_nested_deeply_is_a_bad_line_like_others(tmp_path):
  path = tmp_path / 'a.jsonl'
  deep = '[' * 100_000 + ']' * 100_000
  lines = ['{"text": "a"}', deep, '{"text": "b", "x": ' + '[' * 99 + ']' * 99 + '}']
  path.write_text('\n'.join([*lines, '{"x": ' + '[' * 100 + ']' * 100 + '}']))
  with pytest.raises(
    UserError, match='line 2 is damaged: JSON that is nested too deep'
  ):
    texts(path)
  left_out = []
  assert texts(path, skip=left_out.append) == ['a', 'b']
  assert [each.partition('.jsonl: ')[2][:17] for each in left_out] == [
    'line 2 is damaged',
    'line 4 is damaged',
  ]


def test_a_tar_archive_that_breaks_off_is_no_short_archive(tmp_path):
  (tmp_path / 'a.txt').write_text('one')
  (tmp_path / 'b.txt').write_text('two')
  with tarfile.open(tmp_path / 'a.tar', 'w') as archive:
    for name in ('a.txt', 'b.txt'):
      archive.add(tmp_path / name, name)
  data = (tmp_path / 'a.tar').read_bytes()
  assert texts(tmp_path / 'a.tar') == ['one', 'two']
  for broken in (data[:1024], data[:1024] + bytes([7]) + data[1025:], data[:2048]):
    (tmp_path / 'a.tar').write_bytes(broken)
    with pytest.raises(UserError, match=r'a\.tar: damaged or truncated'):
      texts(tmp_path / 'a.tar')


# Token files


def test_headers_and_marks_of_token_files_are_checked(tmp_path):
  (tmp_path / 'text.txt').write_text('word ' * 400)
  source = str(tmp_path / 'text.txt')
  data = config.Data(source=source, tokenizer='bytes', split='position')
  prepare.prepare(data, tmp_path / 'w', report=lambda text: None)
  path = tmp_path / 'w/tokens/train.json'
  header = json.loads(path.read_text())
  for change, says in (
    ({'documents': 'x'}, "train.json is damaged: documents is 'x'"),
    ({'bin': header['bin'] | {'dtype': '|O'}}, "bin is damaged: .*dtype='|O'"),
    ({'idx': header['idx'] | {'count': 2**62}}, 'its header says'),
    ({'bin': None}, 'bin is None instead of an object'),
  ):
    path.write_text(json.dumps(header | change))
    with pytest.raises(UserError, match=f'{says}.*run `launch.py prepare` again'):
      token_files.open_tokens(path.with_suffix(''))
  with pytest.raises(UserError, match='0 bytes, of which an earlier run wrote 2'):
    done = {'tokens': 1, 'documents': 1, 'bytes': 1}
    for suffix in ('bin', 'idx'):
      (tmp_path / f'new.{suffix}').touch()
    token_files.Writer(tmp_path / 'new', tokenizers.Bytes(), done)


# Weights and configs


GPT2 = {'model_type': 'gpt2', 'n_layer': 1, 'n_embd': 2, 'n_head': 1, 'n_positions': 4}
GPT2 |= {'vocab_size': 5}


@pytest.mark.parametrize(
  ('change', 'says'),
  [
    ({'n_layer': 10**9}, 'model.L=1000000000 must be at most 100,000'),
    ({'n_embd': 10**9}, r'make 1\.2e\+19 parameters'),
    ({'vocab_size': 10**30}, r'vocab_size must be smaller than 2\^63'),
    ({'n_head': 0}, 'n_head=0 must be at least 1'),
    ({'resid_pdrop': None}, 'resid_pdrop=None must be of type float'),
    ({'n_inner': 'x'}, "n_inner='x' must be of type int"),
    ({'tie_word_embeddings': 3}, 'tie_word_embeddings=3 must be of type bool'),
  ],
)
def test_absurd_settings_of_config_json_are_refused(tmp_path, change, says):
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(GPT2 | change))
  with pytest.raises(UserError, match=rf'config\.json: .*{says}'):
    config_json.read_config(path)


def test_attention_types_that_repeat_without_end_are_refused(tmp_path):
  theirs = {'model_type': 'gpt_neo', 'num_layers': 2, 'hidden_size': 2, 'num_heads': 1}
  theirs |= {'max_position_embeddings': 4, 'vocab_size': 5}
  for types in ([[['global'], 10**12]], [[['global']]], 'global', [[[{}], 2]]):
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(theirs | {'attention_types': types}))
    _, _, (wrong,) = config_json.read_config(path)
    assert wrong.startswith('attention_types=') and len(wrong) < 200


def test_layers_that_the_weights_do_not_have_are_refused_early(tmp_path):
  (tmp_path / 'config.json').write_text(json.dumps(GPT2 | {'n_layer': 90_000}))
  header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
  data = len(header).to_bytes(8, 'little') + header + bytes(4)
  (tmp_path / 'model.safetensors').write_bytes(data)
  with pytest.raises(UserError, match='90000 layers by its config, but .* 1 tensors'):
    convert.read(tmp_path)


def test_an_index_names_only_files_beside_it(tmp_path):
  (tmp_path / 'config.json').write_text(json.dumps(GPT2))
  path = tmp_path / 'model.safetensors.index.json'
  for name in ('../b', ['x'], 3, 'x' * 300, '\ud800', '', 'a\0'):
    weight_map = {'a': name}
    path.write_text(json.dumps({'weight_map': weight_map}))
    with pytest.raises(UserError, match='is no name of a file beside it'):
      convert.read(tmp_path)


def test_an_npy_header_may_promise_what_it_likes(tmp_path):
  np.save(tmp_path / 'params_0.npy', np.zeros(3, np.float32))
  (tmp_path / 'params_shapes.json').write_text('[]')
  data = (tmp_path / 'params_0.npy').read_bytes()
  for old, new, says in (
    (b'(3,), }    ', b'(30000,), }', 'its header says 120,000'),
    (b'(3,), }               ', b'(300000000000000,), } ', '1,200,000,000,000,000'),
    (b"'<f4'", b"'|O8'", r'O64\[3\], must be a float32 vector'),
    (b'{', b'[', 'not as numpy saves an array'),
  ):
    assert old in data
    (tmp_path / 'params_0.npy').write_bytes(data.replace(old, new))
    with pytest.raises(UserError, match=says):
      openai_files.read_gpt1(tmp_path)


def test_an_end_of_text_outside_the_vocabulary_is_refused(tmp_path):
  path = tmp_path / 'config.json'
  for eos, found in ((3, 3), (9, 9), (None, 9), (True, 9)):
    path.write_text(json.dumps({'eos_token_id': eos}))
    assert hugging_face._end_of_text(tmp_path, 9) == found
  path.write_text('{"eos_token_id": 10}')
  with pytest.raises(UserError, match='eos_token_id=10 must be in 0 .. 9'):
    hugging_face._end_of_text(tmp_path, 9)


def test_absurd_sizes_of_a_run_are_refused():
  run = config.Run()
  for name, value, says in (
    ('L', 10**9, 'model.L=1000000000 must be at most 100,000'),
    ('D', 2**40, r'make 5\.8e\+25 parameters, which must be at most 1e14'),
    ('vocab', 10**15, r'make 1\.3e\+17 parameters'),
  ):
    big = config.from_flat(config.flat(run) | {f'model.{name}': value})
    with pytest.raises(UserError, match=says):
      config.check(big)
  with pytest.raises(UserError, match=r'seeds must be smaller than 2\^63'):
    config.check(config.from_flat(config.flat(run) | {'seeds': 10**30}))


def test_a_recorded_config_is_checked():
  run = config.Run(steps=7)
  assert config.recorded(config.flat(run), 'a.json', 'copy it') == run
  assert config.recorded({'steps': 0, 'task.name': 'rte'}, 'a.json', '').steps == 0
  for change, says in (
    ({'model.Q': 1}, "no field 'model.Q'"),
    ({'model': 1}, "no field 'model'"),
    ({'model.L': '4'}, "model.L='4' must be of type int"),
    ({'model.L': 0}, 'model.L=0 must be at least 1'),
    ({'prompts': 3}, 'prompts is int'),
    ({'model.L': 10**9}, 'must be at most 100,000'),
  ):
    with pytest.raises(UserError, match=f'a.json is damaged: .*{says}.*; copy it'):
      config.recorded(config.flat(run) | change, 'a.json', 'copy it')


# Tokenizers


def test_strange_entries_of_a_tokenizer_are_refused(tmp_path):
  model = {'type': 'BPE', 'vocab': {'a': 0}, 'merges': []}
  splitter = {'type': 'ByteLevel', 'add_prefix_space': False}
  whole = {'model': model, 'pre_tokenizer': splitter}
  path = tmp_path / 'tokenizer.json'
  for change, says in (
    ({'model': model | {'vocab': {'a': [0]}}}, 'is no entry with its id'),
    ({'model': model | {'vocab': {'a': True}}}, 'is no entry with its id'),
    ({'model': model | {'merges': [['a', 3]]}}, 'is no entry with its id'),
    ({'model': model | {'merges': ['a']}}, 'is no entry with its id'),
    ({'model': model | {'merges': [7]}}, 'damaged: 7 instead of a list'),
    ({'model': []}, 'model is list instead of an object'),
    ({'added_tokens': [{'id': 1}]}, "lacks 'content'"),
    ({'pre_tokenizer': {'pretokenizers': []}}, 'is not the byte-level BPE'),
    ({'pre_tokenizer': 7}, 'is not the byte-level BPE'),
  ):
    path.write_text(json.dumps(whole | change))
    with pytest.raises(UserError, match=says):
      tokenizers.open_path(path)


def test_kinds_of_tokenizers_are_checked(tmp_path):
  for about, says in (
    ({'kind': 'chars', 'characters': 'abca'}, '1 of its characters are there twice'),
    ({'kind': 'chars', 'characters': 3}, 'characters is 3 instead of text'),
    ({'kind': 'numbers', 'vocab': 0, 'eot': 0}, 'vocab=0 must be above 0'),
    (
      {'kind': 'numbers', 'vocab': 5, 'eot': 6},
      'vocab=5 must be above 0, and eot=6 in 0 .. 5',
    ),
    ({'kind': 7}, 'kind is 7 instead of text'),
  ):
    (tmp_path / 'kind.json').write_text(json.dumps(about))
    with pytest.raises(UserError, match=f'kind.json is damaged: {says}'):
      tokenizers.load(tmp_path)


def test_no_character_is_known_to_an_empty_set():
  with pytest.raises(UserError, match="character 'a' .* is not among the 0"):
    tokenizers.Characters('').encode('ab')


@pytest.mark.parametrize(
  ('words', 'says'),
  [
    (r'\p{L}+', 'leaves out a part of a text'),
    (r'[\s\S]*', 'leaves out a part of a text'),  # an empty word stops the engine
    ('(', 'missing'),
    (r'(?:\s|\S|\n)*?(?:a|aa)+$', 'out'),
    ('x' * 5000, 'more than 4,000 characters'),
  ],
)
def test_an_expression_for_words_must_cut_any_text(readers, tmp_path, words, says):
  (made,) = (each for each in readers if each.name == 'tokenizer/byte_bpe')
  for name, data in made.files.items():
    (tmp_path / name).write_bytes(data)
  path = tmp_path / 'kind.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'words': words}))
  with pytest.raises(UserError, match=f'can not be used: .*{says}'):
    tokenizers.load(tmp_path)


# Tasks and results


@pytest.mark.parametrize(
  ('name', 'row', 'says'),
  [
    ('record', {'passage': {'text': 3}}, '3 instead of text'),
    ('multirc', {'passage': {'text': 'a', 'questions': 4}}, '4 instead of a list'),
    ('hellaswag', {'ctx_a': 'a', 'endings': ['b'], 'label': 0}, "'activity_label'"),
  ],
)
def test_rows_of_another_structure_are_named(tmp_path, name, row, says):
  path = tmp_path / 'a.jsonl'
  path.write_text(json.dumps(row) + '\n')
  with pytest.raises(UserError, match=rf'a\.jsonl: line 1.*{says}'):
    prompted_files.read(TASKS[name], path)


def test_predictions_that_are_no_numbers_are_named(tmp_path):
  path = tmp_path / 'dev_predictions.tsv'
  for rows, says in (
    ('x\t1', 'line 2 is damaged'),
    ('1', 'line 2 has 1 col'),
    ('', ''),
  ):
    path.write_text(f'prediction\tlabel\n{rows}\n')
    with pytest.raises(UserError, match=rf'dev_predictions\.tsv.*{says}'):
      finetune_results.read_predictions(tmp_path)


def test_a_damaged_mark_of_prepare_is_said_and_not_used(readers, tmp_path):
  (made,) = (each for each in readers if each.name == 'tokens/resume')
  for name, data in made.files.items():
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
  path, said = tmp_path / 'preparing/mark.json', []
  path.write_text(path.read_text().replace('"tokens": 0', '"tokens": "0"'))
  source = str(tmp_path / 'text.txt')
  data = config.Data(source=source, tokenizer='bytes', split='position', processes=1)
  recipe = json.loads(path.read_text()) | {'recipe': prepare.recipe(data)}
  path.write_text(json.dumps(recipe))
  prepare.prepare(data, tmp_path, report=said.append)
  assert any("mark.json: train is damaged: tokens is '0'" in line for line in said)


def test_a_long_value_is_shown_short():
  assert len(files.shown({'a' * 9000: ['b' * 9000] * 50})) < 300
  assert len(files.shown(10**4000)) < 100
  assert files.brief(ValueError('a\nb' + 'c' * 900)) == 'a b' + 'c' * 197
  assert files.listed([str(i) for i in range(14)]).endswith('10, 11 and 2 more')
