"""The GPT line in JAX/Flax, from raw text to a trained model that writes text.

The rooms, in reading order; each imports only from those before it:

  config       the schema of a run, and `check`
  papers       the published models
  tokenizers   text <-> token ids
  data         sources of text, token files, batches, labelled tasks
  prompting    what tasks ask, as prompts
  model        attention, layers, the GPT, weights in and out
  training     loss, optimizer, step, devices, checkpoints, record, the loop
  decoding     rules of sampling, the compiled loop
  evaluation   likelihoods, baselines, exams
  language_model a trained model with its tokenizer
  classifier   a fine-tuned model
  describe     parameters, FLOPs, memory
  hugging_face folders of weights
  environment  what numbers depend on beside config and data
  workdir      what a run's folder holds, and how it is opened
  harness      tasks of lm-eval, an extra
  few_shot     a model answers tasks it was not trained on
  task_results how good fine-tuned models are
  finetune     puts a fine-tuning together
  ready        a run made ready to be trained
  runs         puts a run together
  together     several runs in one program
  sweep        many runs of one config
  manifest     a run trained again from its run.json
  compare_runs two runs side by side
  report       plots of finished runs
  eval_report  prompted tasks beside the papers
  explain_page what a model does with a text, as a page
  sweep_report the runs of a sweep, compared
  verbs        what launch.py can be asked for

`gpt_jax.load(path)` opens a trained model:

  model = gpt_jax.load('runs/quickstart')
  model.generate('Once upon a time', max_new_tokens=50)[0].text
"""


def __getattr__(name: str):
  # Lazy, so that rooms without jax stay without jax.
  if name == 'load':
    from gpt_jax.workdir import load

    return load
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
