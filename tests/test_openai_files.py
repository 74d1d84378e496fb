"""OpenAI's two original formats of weights.

The TensorFlow checkpoints in goldens/tf_checkpoint/ come from the real TensorFlow
(goldens/make_tf_checkpoint.py); damage is done to copies of them.
"""

import gzip
import json
import pathlib
import shutil
import subprocess
import sys
import zlib

import numpy as np
import pytest

from gpt_jax.config import UserError
from gpt_jax.weights import openai_files
from gpt_jax.weights.openai_files import read_gpt1, read_tensorflow

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDENS = ROOT / 'tests' / 'goldens' / 'tf_checkpoint'


def test_the_module_needs_no_tensorflow_and_no_jax_of_its_own():
  text = pathlib.Path(openai_files.__file__).read_text(encoding='utf-8')
  code = 'import sys; sys.modules["jax"] = sys.modules["tensorflow"] = None\n' + text
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


# GPT-1

GPT1_LAYER = (
  'attn/c_attn/w attn/c_attn/b attn/c_proj/w attn/c_proj/b ln_1/g ln_1/b '
  'mlp/c_fc/w mlp/c_fc/b mlp/c_proj/w mlp/c_proj/b ln_2/g ln_2/b'
).split()


def gpt1_shapes(layers, T=5, V=7, D=2):
  """Returns params_shapes.json, typed off the release's for D = 768."""
  layer = [[1, D, 3 * D], [3 * D], [1, D, D], [D], [D], [D]]
  layer += [[1, D, 4 * D], [4 * D], [1, 4 * D, D], [D], [D], [D]]
  return [[T, D], [V, D]] + layers * layer


def write_gpt1(folder, shapes, parts=10, **change):
  """Writes the numbers 0, 1, 2 ... as a release of so many parts; returns their sum."""
  total = sum(int(np.prod(shape)) for shape in shapes)
  numbers = np.arange(total + change.get('surplus', 0), dtype=np.float32)
  for i, part in enumerate(np.array_split(numbers, parts)):
    np.save(folder / f'params_{i}.npy', part)
  (folder / 'params_shapes.json').write_text(json.dumps(shapes), encoding='utf-8')
  return total


def gpt1_error(folder):
  with pytest.raises(UserError) as error:
    read_gpt1(folder)
  return str(error.value)


@pytest.mark.parametrize('parts', [1, 10, 12])
def test_gpt1_weights_come_in_the_order_of_the_release(tmp_path, parts):
  total = write_gpt1(tmp_path, gpt1_shapes(3), parts)
  weights = read_gpt1(tmp_path)
  layers = [f'h{i}/{name}' for i in range(3) for name in GPT1_LAYER]
  assert list(weights) == ['wpe', 'wte', *layers]
  joined = np.concatenate([array.ravel() for array in weights.values()])
  np.testing.assert_array_equal(joined, np.arange(total))
  assert all(array.dtype == np.float32 for array in weights.values())


def test_gpt1_positions_come_first_and_kernels_are_in_by_out(tmp_path):
  write_gpt1(tmp_path, gpt1_shapes(2))
  weights = read_gpt1(str(tmp_path))
  np.testing.assert_array_equal(weights['wpe'], np.arange(10).reshape(5, 2))
  np.testing.assert_array_equal(weights['wte'], np.arange(10, 24).reshape(7, 2))
  np.testing.assert_array_equal(
    weights['h0/attn/c_attn/w'], [[24, 25, 26, 27, 28, 29], [30, 31, 32, 33, 34, 35]]
  )
  assert weights['h1/attn/c_proj/w'].shape == (2, 2)
  assert weights['h1/mlp/c_fc/w'].shape == (2, 8)
  assert weights['h1/mlp/c_proj/w'].shape == (8, 2)
  assert weights['h1/mlp/c_fc/b'].shape == (8,)


def test_a_gap_in_the_parts_of_gpt1_is_an_error_that_names_each_missing_file(tmp_path):
  write_gpt1(tmp_path, gpt1_shapes(1))
  (tmp_path / 'params_0.npy').unlink()
  (tmp_path / 'params_7.npy').unlink()
  assert gpt1_error(tmp_path).splitlines() == [
    f'{tmp_path}/params_0.npy: missing',
    f'{tmp_path}/params_7.npy: missing',
  ]


def test_an_empty_folder_is_an_error_that_names_both_kinds_of_file(tmp_path):
  assert gpt1_error(tmp_path).splitlines() == [
    f'{tmp_path}/params_shapes.json: missing',
    f'{tmp_path}/params_0.npy: missing',
  ]
  assert 'params_0.npy: missing' in gpt1_error(tmp_path / 'nowhere')


@pytest.mark.parametrize('surplus', [-1, 1])
def test_gpt1_parts_of_another_total_are_an_error_with_both_totals(tmp_path, surplus):
  total = write_gpt1(tmp_path, gpt1_shapes(1), surplus=surplus)
  error = gpt1_error(tmp_path)
  assert f'params_9.npy hold {total + surplus} numbers' in error
  assert f'ask for {total}' in error


def test_the_release_holds_116_534_784_numbers(tmp_path):
  write_gpt1(tmp_path, gpt1_shapes(1), 1)
  shapes = json.dumps(gpt1_shapes(12, T=512, V=40_478, D=768))
  (tmp_path / 'params_shapes.json').write_text(shapes, encoding='utf-8')
  (line,) = gpt1_error(tmp_path).splitlines()
  assert 'ask for 116534784:' in line


def test_a_missing_last_part_of_gpt1_is_an_error(tmp_path):
  write_gpt1(tmp_path, gpt1_shapes(1))
  (tmp_path / 'params_9.npy').unlink()
  assert 'params_0.npy .. params_8.npy hold' in gpt1_error(tmp_path)


def test_a_truncated_or_alien_part_of_gpt1_is_an_error_that_names_it(tmp_path):
  write_gpt1(tmp_path, gpt1_shapes(1))
  whole = (tmp_path / 'params_3.npy').read_bytes()
  (tmp_path / 'params_3.npy').write_bytes(whole[:-1])
  (tmp_path / 'params_4.npy').write_bytes(b'')
  (tmp_path / 'params_5.npy').write_bytes(b'not numpy at all')
  np.save(tmp_path / 'params_6.npy', np.zeros(3))
  np.save(tmp_path / 'params_8.npy', np.zeros((3, 1), np.float32))
  lines = gpt1_error(tmp_path).splitlines()
  assert [line.split(':')[0][-12:] for line in lines] == [
    f'params_{i}.npy' for i in (3, 4, 5, 6, 8)
  ]
  assert 'float64[3], must be a float32 vector' in lines[3]
  assert 'float32[3, 1], must be a float32 vector' in lines[4]


def test_every_shape_off_the_layout_of_gpt1_is_listed_at_once(tmp_path):
  shapes = gpt1_shapes(2)
  shapes[4], shapes[20] = [1, 2, 3], [2, 8]
  write_gpt1(tmp_path, shapes)
  (tmp_path / 'params_2.npy').unlink()
  path = f'{tmp_path}/params_shapes.json'
  assert gpt1_error(tmp_path).splitlines() == [
    f'{path}: shape 4 (h0/attn/c_proj/w) is [1, 2, 3], must be [1, 2, 2] (width 2)',
    f'{path}: shape 20 (h1/mlp/c_fc/w) is [2, 8], must be [1, 2, 8] (width 2)',
    f'{tmp_path}/params_2.npy: missing',
  ]


@pytest.mark.parametrize('count', [2, 13, 15])
def test_shapes_that_are_no_whole_layers_are_an_error(tmp_path, count):
  write_gpt1(tmp_path, gpt1_shapes(2)[:count])
  assert f'{count} shapes, must be 2 and 12 for each layer' in gpt1_error(tmp_path)


def test_tokens_and_positions_of_two_widths_are_an_error(tmp_path):
  shapes = gpt1_shapes(1)
  shapes[0] = [5, 3]
  write_gpt1(tmp_path, shapes)
  assert 'shape 0 (wpe) is [5, 3], must be [5, 2]' in gpt1_error(tmp_path)


@pytest.mark.parametrize(
  'text',
  ['', '[', '7', '{}', '[]', '[[5, 2]]', '[[5], [7]]', '[7, 8]', '["ab", "cd"]']
  + ['[[5, 2], [7, 2], 3]', '[[], [7, 2]]', '[[5, 2], [7, 2, 2]]'],
)
def test_a_file_that_lists_no_shapes_is_an_error_that_names_it(tmp_path, text):
  write_gpt1(tmp_path, gpt1_shapes(1))
  (tmp_path / 'params_shapes.json').write_text(text, encoding='utf-8')
  assert gpt1_error(tmp_path).startswith(f'{tmp_path}/params_shapes.json: must list')


@pytest.mark.parametrize('size', [-5, 0, 5.0, True, '5', None, [5]])
def test_a_size_that_is_no_count_is_an_error(tmp_path, size):
  write_gpt1(tmp_path, gpt1_shapes(1))
  shapes = [[size, 2], *gpt1_shapes(1)[1:]]
  (tmp_path / 'params_shapes.json').write_text(json.dumps(shapes), encoding='utf-8')
  assert 'sizes must be integers above 0' in gpt1_error(tmp_path)


# TensorFlow


def value(name, shape):
  """Returns the numbers of the goldens, as in make_tf_checkpoint.py."""
  numbers = np.arange(np.prod(shape, dtype=int)) * 7 + zlib.crc32(name.encode())
  return (numbers % 251 - 125).reshape(shape).astype(np.float32) / 64


def assert_golden(tensors, shapes):
  assert sorted(tensors) == sorted(shapes)
  for name, shape in shapes.items():
    assert tensors[name].shape == tuple(shape) and tensors[name].dtype == np.float32
    np.testing.assert_array_equal(tensors[name], value(name, shape), err_msg=name)


def copied(tmp_path, name):
  """Returns a copy of a golden checkpoint that may be damaged."""
  return pathlib.Path(shutil.copytree(GOLDENS / name, tmp_path / name))


def tensorflow_error(path):
  with pytest.raises(UserError) as error:
    read_tensorflow(path)
  return str(error.value)


def gpt2_shapes(D=2, layers=11):
  layer = dict.fromkeys(('ln_1/g', 'ln_1/b', 'ln_2/g', 'ln_2/b'), [D])
  layer |= {'attn/c_attn/w': [1, D, 3 * D], 'attn/c_attn/b': [3 * D]}
  layer |= {'attn/c_proj/w': [1, D, D], 'attn/c_proj/b': [D]}
  layer |= {'mlp/c_fc/w': [1, D, 4 * D], 'mlp/c_fc/b': [4 * D]}
  layer |= {'mlp/c_proj/w': [1, 4 * D, D], 'mlp/c_proj/b': [D]}
  shapes = {f'model/h{i}/{n}': s for i in range(layers) for n, s in layer.items()}
  shapes |= {'model/wte': [5, D], 'model/wpe': [3, D]}
  return shapes | {'model/ln_f/g': [D], 'model/ln_f/b': [D]}


def test_a_gpt2_checkpoint_of_tensorflow_reads_exactly():
  assert_golden(read_tensorflow(GOLDENS / 'gpt2' / 'model.ckpt'), gpt2_shapes())


def test_tensors_come_in_the_order_of_their_names():
  names = list(read_tensorflow(GOLDENS / 'gpt2'))
  assert names == sorted(names)


def test_half_precision_scalars_and_empty_tensors_read_exactly():
  shapes = {'half': [3, 5], 'brain': [5, 3], 'scalar': [], 'empty': [0, 4]}
  assert_golden(read_tensorflow(GOLDENS / 'kinds'), shapes)


def test_a_checkpoint_of_two_data_files_reads_exactly():
  shapes = {f'{letter}{i}': [2, 3] for letter in 'abc' for i in range(2)}
  assert_golden(read_tensorflow(str(GOLDENS / 'sharded')), shapes)


def unpacked(tmp_path):
  for path in (GOLDENS / 'many').iterdir():
    (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
  return tmp_path / 'many'


def test_an_index_of_several_blocks_and_long_tensors_read_exactly(tmp_path):
  prefix = unpacked(tmp_path)
  assert (tmp_path / 'many.index').stat().st_size > 2 * 262_144
  shapes = {f'{i:03d}/{"long" * 500}': [] for i in range(300)}
  shapes |= {'odd': [300_001], 'whole': [256, 512]}
  assert_golden(read_tensorflow(prefix), shapes)


def test_a_folder_names_its_checkpoint_in_the_file_checkpoint(tmp_path):
  folder = copied(tmp_path, 'gpt2')
  shutil.copy(folder / 'model.ckpt.index', folder / 'other.index')
  assert_golden(read_tensorflow(folder), gpt2_shapes())
  state = folder / 'checkpoint'
  assert '"model.ckpt"' in state.read_text()
  state.write_text(state.read_text().replace('"model.ckpt"', '"/old/model.ckpt"'))
  assert_golden(read_tensorflow(folder), gpt2_shapes())
  state.write_text(state.read_text().replace('model.ckpt', 'gone'))
  assert tensorflow_error(folder).startswith(f'{folder}/gone.index: can not be read')
  state.write_text('')
  assert f'{state}: names no model_checkpoint_path' in tensorflow_error(folder)


def test_a_folder_of_no_or_two_checkpoints_is_an_error_that_lists_them(tmp_path):
  folder = copied(tmp_path, 'sharded')
  shutil.copy(folder / 'model.index', folder / 'other.index')
  assert 'it holds model.index, other.index;' in tensorflow_error(folder)
  (folder / 'model.index').unlink()
  (folder / 'other.index').unlink()
  assert 'it holds none;' in tensorflow_error(folder)


def test_a_prefix_without_an_index_is_an_error_that_names_the_index(tmp_path):
  error = tensorflow_error(tmp_path / 'no.ckpt')
  assert error.startswith(f'{tmp_path}/no.ckpt.index: can not be read')
  assert 'its prefix without .index' in error


def test_an_index_cut_anywhere_is_an_error_that_names_it(tmp_path):
  index = copied(tmp_path, 'sharded') / 'model.index'
  whole = index.read_bytes()
  for size in range(len(whole)):
    index.write_bytes(whole[:size])
    error = tensorflow_error(index.parent)
    assert error.startswith(f'{index}: ') and 'truncated or altered' in error, size


def test_an_index_with_any_byte_altered_is_an_error_or_makes_no_difference(tmp_path):
  index = copied(tmp_path, 'sharded') / 'model.index'
  whole = index.read_bytes()
  right = {
    name: array.tolist() for name, array in read_tensorflow(index.parent).items()
  }
  harmless = 0
  for at in range(len(whole)):
    index.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
    try:
      found = read_tensorflow(index.parent)
      assert {name: array.tolist() for name, array in found.items()} == right, at
      harmless += 1
    except UserError as e:
      assert str(e).startswith(f'{index}: '), at
  # The empty block of metadata, its place, and the padding of the footer.
  assert harmless < 60


def resign(index, old, new, kind=0):
  """Alters the first block of an index and gives it the checksum that it then needs."""
  whole = index.read_bytes()
  end, _ = openai_files._varint(whole[-48:], 0)  # of the block with its trailer
  assert old in whole[: end - 5] and len(old) == len(new)
  block = whole[: end - 5].replace(old, new, 1) + bytes([kind])
  checksum = openai_files._checksum(block).to_bytes(4, 'little')
  index.write_bytes(block + checksum + whole[end:])


def test_an_index_with_compressed_blocks_is_refused(tmp_path):
  index = copied(tmp_path, 'sharded') / 'model.index'
  resign(index, b'', b'', kind=1)
  error = tensorflow_error(index.parent)
  assert error.startswith(f'{index}: ') and 'its blocks are compressed' in error


def test_big_endian_tensors_are_refused(tmp_path):
  index = copied(tmp_path, 'sharded') / 'model.index'
  resign(index, b'\x08\x02\x1a\x02', b'\x08\x02\x10\x01')  # version -> endianness
  error = tensorflow_error(index.parent)
  assert error.startswith(f'{index}: ') and 'its tensors are big-endian' in error


def test_a_shape_of_another_size_than_its_bytes_is_an_error_that_names_it(tmp_path):
  index = copied(tmp_path, 'sharded') / 'model.index'
  resign(index, b'\x12\x02\x08\x03', b'\x12\x02\x08\x04')
  assert tensorflow_error(index.parent) == f'{index}: a0 [2, 4] has 24 bytes, not 32'


def test_missing_data_files_are_one_error_that_names_them_and_their_tensors(tmp_path):
  folder = copied(tmp_path, 'sharded')
  for path in folder.glob('*.data-*'):
    path.unlink()
  assert tensorflow_error(folder).splitlines() == [
    f'{folder}/model.data-00000-of-00002: missing; it holds a0, b0, c0',
    f'{folder}/model.data-00001-of-00002: missing; it holds a1, b1, c1',
  ]


def test_truncated_and_missing_data_is_one_error_that_names_what_is_lost(tmp_path):
  folder = copied(tmp_path, 'sharded')
  (folder / 'model.data-00001-of-00002').unlink()
  cut = folder / 'model.data-00000-of-00002'
  cut.write_bytes(cut.read_bytes()[:47])
  assert tensorflow_error(folder).splitlines() == [
    f'{cut}: truncated: 47 bytes, must be 72; it lacks b0, c0',
    f'{folder}/model.data-00001-of-00002: missing; it holds a1, b1, c1',
  ]


def test_any_altered_byte_of_data_is_an_error_that_names_file_and_tensor(tmp_path):
  folder = copied(tmp_path, 'sharded')
  path = folder / 'model.data-00001-of-00002'
  whole = path.read_bytes()
  for at in range(len(whole)):
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    name = 'abc'[at // 24] + '1'
    assert tensorflow_error(folder).splitlines() == [
      f'{path}: altered: the checksum of {name} differs; copy it anew'
    ]


def test_every_tensor_of_another_kind_is_named_in_one_error():
  index = GOLDENS / 'refused' / 'refused.index'
  kinds = 'float32 or bfloat16 or float16; save without it'
  assert tensorflow_error(GOLDENS / 'refused').splitlines() == [
    f'{index}: global_step is int64, must be {kinds}',
    f'{index}: sliced is saved in slices; save it whole',
    f'{index}: words is string, must be {kinds}',
  ]


def test_a_checksum_is_that_of_the_published_vectors():
  # RFC 3720, B.4; masked as in LevelDB's crc32c.h.
  def masked(crc):
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

  assert openai_files._checksum(bytes(32)) == masked(0x8A9136AA)
  assert openai_files._checksum(b'\xff' * 32) == masked(0x62A8AB43)
  assert openai_files._checksum(bytes(range(32))) == masked(0x46DD794E)
  assert openai_files._checksum(b'123456789') == masked(0xE3069283)
  assert openai_files._checksum(b'') == masked(0)
