"""Makes hugging_face/: small random models by transformers, with logits and gradients.

  pip install torch==2.13.0 transformers
  python tests/goldens/make_hugging_face.py

A folder for each case: what save_pretrained writes, and expected.npz with ids [B, T],
logits [B, T, vocab] and, under each tensor's name, the gradient of the mean loss.
tests/test_parity.py runs the same cases, and larger ones, live.
"""

import pathlib

import numpy as np
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent / 'hugging_face'
# Odd numbers of heads, vocabularies that are no multiple of 128, contexts that are no
# power of two.
CASES = {
  'gpt2': {
    'n_layer': 2,
    'n_embd': 12,
    'n_head': 3,
    'n_positions': 11,
    'vocab_size': 61,
  },
  'gpt2_untied_exact_gelu': {
    'n_layer': 1,
    'n_embd': 10,
    'n_head': 5,
    'n_positions': 7,
    'vocab_size': 23,
    'n_inner': 14,
    'activation_function': 'gelu',
    'scale_attn_weights': False,
    'tie_word_embeddings': False,
  },
  'gpt2_relu': {
    'n_layer': 1,
    'n_embd': 8,
    'n_head': 1,
    'n_positions': 9,
    'vocab_size': 129,
    'activation_function': 'relu',
  },
  'openai-gpt': {
    'n_layer': 2,
    'n_embd': 15,
    'n_head': 5,
    'n_positions': 9,
    'vocab_size': 37,
  },
  'gpt_neo': {
    'num_layers': 3,
    'hidden_size': 12,
    'num_heads': 3,
    'max_position_embeddings': 13,
    'vocab_size': 31,
    'attention_types': [[['global', 'local', 'local'], 1]],
    'window_size': 4,
    'intermediate_size': 20,
  },
}
KINDS = {
  'gpt2': (transformers.GPT2Config, transformers.GPT2LMHeadModel),
  'openai-gpt': (transformers.OpenAIGPTConfig, transformers.OpenAIGPTLMHeadModel),
  'gpt_neo': (transformers.GPTNeoConfig, transformers.GPTNeoForCausalLM),
}


def build(name: str, fields: dict, seed: int = 0):
  """Returns a model with weights large enough that all of them matter."""
  kind = next(k for k in KINDS if name == k or name.startswith(k + '_'))
  configuration, model_class = KINDS[kind]
  torch.manual_seed(seed)
  model = model_class(configuration(**fields, bos_token_id=0, eos_token_id=0)).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.3 * torch.randn_like(parameter))
  return model


def ids_of(model, rows: int = 2, seed: int = 0) -> np.ndarray:
  """Returns random token ids that fill the context."""
  c = model.config
  T = getattr(c, 'n_positions', None) or c.max_position_embeddings
  return np.random.default_rng(seed).integers(0, c.vocab_size, (rows, T))


def reference(model, ids: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Returns the logits, and the gradient of the mean loss for each tensor."""
  batch = torch.tensor(ids)
  out = model(input_ids=batch, labels=batch)
  out.loss.backward()
  gradients = {name: p.grad.numpy() for name, p in model.named_parameters()}
  return out.logits.detach().numpy(), gradients


def main() -> None:
  for name, fields in CASES.items():
    model = build(name, fields)
    model.save_pretrained(HERE / name)
    (HERE / name / 'generation_config.json').unlink(missing_ok=True)
    ids = ids_of(model)
    logits, gradients = reference(model, ids)
    np.savez_compressed(
      HERE / name / 'expected.npz', ids=ids, logits=logits, **gradients
    )
    print(name, sum(p.numel() for p in model.parameters()))


if __name__ == '__main__':
  main()
