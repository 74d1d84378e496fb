"""GPT-3's mixture of sources: the weights of table 2.2, over sources that you name.

Claim: published, the weights and the epochs of each source in 300 billion tokens: 0.44,
2.9, 1.9, 0.43 and 3.4. Source: Brown et al. 2020, section 2.2, table 2.2. Cost: that of
`pretrain.py`. Not run here; its sources were not published.

  python launch.py describe --config=experiments/gpt3/mixture.py
  python launch.py train --config=experiments/gpt3/mixture.py:Small \
    --workdir=runs/mixed --config.data.mixture="common_crawl=/data/cc; \
    webtext2=/data/webtext; books1=/data/b1; books2=/data/b2; wikipedia=/data/wiki"

The weights add up to 101 %, by rounding, and are divided by that. Other names need
weights of their own: --config.data.weights="news=60, mail=40", and
"news=60, mail=40; 50000: mail=1" draws mail alone from update 50,000 on.
"""

import pathlib
import runpy

from gpt_jax import config

WEIGHTS = 'common_crawl=60, webtext2=22, books1=8, books2=8, wikipedia=3'


def get_config(size: str = 'Small') -> config.Run:
  """Returns `pretrain.py`'s config of one of papers.GPT3_SIZES, on the mixture."""
  pretrain = pathlib.Path(__file__).with_name('pretrain.py')
  run = runpy.run_path(str(pretrain))['get_config'](size)
  names = [entry.split('=')[0].strip() for entry in WEIGHTS.split(',')]
  run.data.mixture = '; '.join(f'{name}=data/{name}' for name in names)
  run.data.weights = WEIGHTS
  return run
