"""GPT-1's pre-training, on your own books.

Claim: published, perplexity 18.4 a token on BooksCorpus (over 7,000 books, not to be
had any more). Source: Radford et al. 2018, sections 3.1 and 4.1; Adam with its decay,
betas, eps and clipping as in openai/finetune-transformer-lm, opt.py and train.py. Cost:
5.9e19 FLOPs as it stands; OpenAI said a month on 8 GPUs. Set `steps` to 100 epochs of
your text: `train` prints how many epochs a run is. Not run here: it wants GPUs.

  python launch.py train --config=experiments/gpt1/pretrain.py --workdir=runs/gpt1 \
    --config.data.source=BOOKS --config.data.tokenizer=FOLDER_OF_GPT1_VOCABULARY

Differs: GPT-1 has no end-of-text; here one stands between documents, so the vocabulary
has an entry more. Without GPT-1's vocabulary a byte-level BPE of the size is trained.
"""

from gpt_jax import config
from gpt_jax.config import papers


def get_config() -> config.Run:
  """Returns the config."""
  model = papers.gpt1()
  model.vocab = 0  # the tokenizer's: GPT-1's and end-of-text
  return config.Run(
    steps=2_400_000,
    batch=64,
    eval_every=10_000,
    eval_tokens=1_000_000,
    data=config.Data(
      source='', tokenizer='byte_bpe', vocab=papers.GPT1_VOCAB, windows='random'
    ),
    model=model,
    optim=config.Optim(
      name='adam_gpt1',
      lr=2.5e-4,
      final_lr=0.0,
      warmup=2000,
      beta2=0.999,
      weight_decay=0.01,
    ),
  )
