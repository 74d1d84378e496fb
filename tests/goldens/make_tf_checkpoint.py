"""Makes tf_checkpoint/: checkpoints as the real TensorFlow writes them.

  pip install tensorflow-cpu
  python tests/goldens/make_tf_checkpoint.py

Made with TensorFlow 2.21.0. Every value follows from `value` below, which
tests/test_openai_files.py has too.
"""

import contextlib
import gzip
import pathlib
import shutil
import tempfile
import zlib

import numpy as np
import tensorflow as tf

HERE = pathlib.Path(__file__).parent / 'tf_checkpoint'


def value(name, shape):
  """Returns numbers that float32, float16 and bfloat16 all hold exactly."""
  numbers = np.arange(np.prod(shape, dtype=int)) * 7 + zlib.crc32(name.encode())
  return (numbers % 251 - 125).reshape(shape).astype(np.float32) / 64


def gpt2_shapes(D=2, layers=11):
  """Returns the shapes of a GPT-2 of OpenAI's naming: h10 sorts before h2."""
  layer = {
    'ln_1/g': [D],
    'ln_1/b': [D],
    'attn/c_attn/w': [1, D, 3 * D],
    'attn/c_attn/b': [3 * D],
    'attn/c_proj/w': [1, D, D],
    'attn/c_proj/b': [D],
    'ln_2/g': [D],
    'ln_2/b': [D],
    'mlp/c_fc/w': [1, D, 4 * D],
    'mlp/c_fc/b': [4 * D],
    'mlp/c_proj/w': [1, 4 * D, D],
    'mlp/c_proj/b': [D],
  }
  shapes = {f'model/h{i}/{n}': s for i in range(layers) for n, s in layer.items()}
  return shapes | {
    'model/wte': [5, D],
    'model/wpe': [3, D],
    'model/ln_f/g': [D],
    'model/ln_f/b': [D],
  }


def save(prefix, tensors, slices=None):
  """Writes a checkpoint of named tensors."""
  slices = slices or [''] * len(tensors)
  tf.raw_ops.SaveV2(
    prefix=str(prefix),
    tensor_names=list(tensors),
    shape_and_slices=slices,
    tensors=list(tensors.values()),
  )


def gpt2(folder):
  """Writes what a Saver of TensorFlow 1 writes, the file `checkpoint` included."""
  v1 = tf.compat.v1
  with tf.Graph().as_default(), v1.Session() as session:
    for name, shape in gpt2_shapes().items():
      v1.get_variable(name, initializer=value(name, shape), use_resource=False)
    session.run(v1.global_variables_initializer())
    with contextlib.chdir(folder):  # else `checkpoint` names this machine's folders
      v1.train.Saver().save(session, './model.ckpt', write_meta_graph=False)


def many(folder):
  """Writes an index of several blocks (of 256 KiB), and long tensors, all packed."""
  with tempfile.TemporaryDirectory() as temporary:
    prefix = pathlib.Path(temporary) / 'many'
    names = [f'{i:03d}/{"long" * 500}' for i in range(300)]
    tensors = {name: tf.constant(value(name, [])) for name in names}
    tensors['odd'] = tf.constant(value('odd', [300_001]), tf.float16)
    tensors['whole'] = tf.constant(value('whole', [256, 512]))
    save(prefix, tensors)
    for path in pathlib.Path(temporary).iterdir():
      packed = gzip.compress(path.read_bytes(), mtime=0)
      (folder / f'{path.name}.gz').write_bytes(packed)


def main():
  shutil.rmtree(HERE, ignore_errors=True)
  for name in ('gpt2', 'kinds', 'sharded', 'refused', 'many'):
    (HERE / name).mkdir(parents=True)
  gpt2(HERE / 'gpt2')
  many(HERE / 'many')
  save(
    HERE / 'kinds' / 'kinds',
    {
      'half': tf.constant(value('half', [3, 5]), tf.float16),
      'brain': tf.constant(value('brain', [5, 3]), tf.bfloat16),
      'scalar': tf.constant(value('scalar', [])),
      'empty': tf.constant(value('empty', [0, 4])),
    },
  )
  parts = [HERE / 'sharded' / f'part{i}' for i in range(2)]
  for i, part in enumerate(parts):
    names = [f'{letter}{i}' for letter in 'abc']
    save(part, {name: tf.constant(value(name, [2, 3])) for name in names})
  tf.raw_ops.MergeV2Checkpoints(
    checkpoint_prefixes=[str(part) for part in parts],
    destination_prefix=str(HERE / 'sharded' / 'model'),
  )
  save(
    HERE / 'refused' / 'refused',
    {
      'good': tf.constant(value('good', [2])),
      'global_step': tf.constant(7, tf.int64),
      'words': tf.constant(['a', 'b']),
      'sliced': tf.constant(value('sliced', [2, 3])),
    },
    ['', '', '', '4 3 0,2:-'],
  )


main()
