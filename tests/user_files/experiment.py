"""An experiment as a user wrote it before the rooms moved; kept as it is."""

from gpt_jax import config, papers


def get_config(size: str = 'Small') -> config.Run:
  """Returns a GPT-3 cut down to what a test can count."""
  model = papers.gpt3(size)
  model.L, model.T = 2, 64
  return config.Run(
    steps=12,
    batch=4,
    data=config.Data(source='text.txt', tokenizer='chars'),
    model=model,
    optim=config.Optim(lr=1e-3, warmup=2),
  )
