"""The requests of each question, and the rules that score a model's answers.

Every way to compare likelihoods is reported, by name. Of choices (GPT-3, section 2.4):
'sum' is log P(answer | context), 'per_token', 'per_byte' and 'per_character' are that
over the answer's length, 'unconditional' is it less log P(answer | 'Answer:'). Of texts
that differ in the middle: 'partial' is log P(end | context, option), 'full' is log
P(option, end | context) (Trinh & Le 2018). Of a last word: 'last_word' wants every
token of it to be the most likely, 'last_token' only its last (as OpenAI counted), and
'..._filtered' leaves stop words out of the comparison (GPT-2, section 3.3).
"""

import collections
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpt_jax.config import UserError
from gpt_jax.evaluation import metrics, statistics, text_metrics
from gpt_jax.evaluation.likelihood import TokenScores
from gpt_jax.files import field, of_kind
from gpt_jax.tasks.prompted.lambada import STOP_WORDS
from gpt_jax.tasks.prompts import PromptedTask, Question
from gpt_jax.tokenizers import Tokenizer

CHOICES = 'sum', 'per_token', 'per_byte', 'per_character', 'unconditional'
RULES = {
  'choices': CHOICES,
  'partial': ('partial', 'full'),
  'last_word': ('last_word', 'last_word_filtered', 'last_token', 'last_token_filtered'),
  'text': ('windows',),
}
_DRAWS = 100  # of the bootstrap of BLEU, which takes long

Record = dict[str, Any]


class Request(NamedTuple):
  """A continuation that is scored after a context."""

  context: str
  continuation: str


def requests(task: PromptedTask, question: Question, prompt: str) -> list[Request]:
  """Returns the requests of a question; none if the model writes the answer.

  `prompt` is the text before the answer, examples first.
  """
  every = question.answers
  if task.form == 'choices':
    alone = [Request(task.unconditional, answer) for answer in every]
    return [Request(prompt, answer) for answer in every] + alone
  if task.form == 'partial':
    end = question.completion
    ends = [Request(prompt + option, end) for option in every]
    return ends + [Request(prompt, option + end) for option in every]
  return [Request(prompt, every[0])] if task.form == 'last_word' else []


def record(task: PromptedTask, scores: Sequence[TokenScores]) -> Record:
  """Returns what to keep of the scores of a question's requests."""
  if task.form == 'last_word':
    ((logp, best, allowed),) = scores
    return {
      'logp': sum(logp),
      'last_logp': logp[-1],
      'last_word': all(best),
      'last_word_filtered': allowed[0] and all(best[1:]),
      'last_token': best[-1],
      # The last token of several is a piece of a word, whatever it looks like.
      'last_token_filtered': allowed[-1] if len(best) == 1 else best[-1],
    }
  sums = [sum(each.logp) for each in scores]
  half = len(sums) // 2
  return {
    'logp': sums[:half],
    'other_logp': sums[half:],  # unconditional, or of option and end
    'tokens': [len(each.logp) for each in scores[:half]],
  }


_KINDS = {
  'free': {'text': str},
  'text': {'nll': float},
  'last_word': {'logp': float, 'last_logp': float}
  | dict.fromkeys(RULES['last_word'], bool),
}


def check_record(
  form: str, options: int, record: Record, where: str, remedy: str
) -> None:
  """Raises a UserError unless a record that was read is one of a form of tasks.

  Args:
    options: of its question.
    where: names the record in an error.
    remedy: what to do about it, for the error.
  """
  kinds = _KINDS.get(form, dict.fromkeys(('logp', 'other_logp', 'tokens'), list))
  for name, kind in kinds.items():
    value = field(record, name, kind, where, remedy)
    if kind is list and len(value) != options:
      raise UserError(
        f'{where} is damaged: {name} has {len(value)} numbers, not {options}; {remedy}'
      )
    for each in value if kind is list else ():
      of_kind(each, float, where, remedy)


def banned(task: PromptedTask, tokenizer: Tokenizer, V: int) -> np.ndarray | None:
  """Returns bool [V], the tokens that are stop words; None if no rule needs it."""
  if task.form != 'last_word':
    return None
  is_stop_word = np.zeros(V, bool)
  for i in range(min(V, tokenizer.vocab)):
    is_stop_word[i] = tokenizer.decode([i]).strip().lower() in STOP_WORDS
  return is_stop_word


def option_scores(rule: str, record: Record, question: Question) -> np.ndarray:
  """Returns the number by which a rule compares the options, [options]."""
  logp, other = np.array(record['logp']), np.array(record['other_logp'])
  if rule in ('sum', 'partial'):
    return logp
  if rule == 'full':
    return other
  if rule == 'unconditional':
    return logp - other
  lengths = {
    'per_token': record['tokens'],
    'per_byte': [len(answer.encode()) for answer in question.answers],
    'per_character': [len(answer) for answer in question.answers],
  }[rule]
  return logp / np.maximum(1, lengths)  # an answer may be empty


def results(
  task: PromptedTask, questions: Sequence[Question], records: Sequence[Record]
) -> dict[str, dict[str, dict[str, float]]]:
  """Returns value, low and high (95 %) of each metric, by metric and by rule.

  The interval is Wilson's for shares, else a bootstrap over questions. Shares are from
  0 to 1, BLEU from 0 to 100.

  Args:
    records: for each question, from `record`, or {'text': what the model wrote}.
  """
  pairs = list(zip(questions, records, strict=True))
  if task.form == 'free':
    return {
      metric: {task.rule: _written(task, metric, pairs)} for metric in task.metrics
    }
  by_metric = collections.defaultdict(dict)
  if task.form == 'last_word':
    for rule in RULES['last_word']:
      right = [each[rule] for each in records]
      by_metric['accuracy'][rule] = share(sum(right), len(right))
    for rule, name in (('last_word', 'logp'), ('last_token', 'last_logp')):
      nll = np.array([-each[name] for each in records])
      mean = _mean(nll)
      by_metric['perplexity'][rule] = {k: float(np.exp(v)) for k, v in mean.items()}
    return dict(by_metric)
  for rule in RULES[task.form]:
    chosen = [int(option_scores(rule, each, q).argmax()) for q, each in pairs]
    for metric in task.metrics:
      by_metric[metric][rule] = _chosen(metric, chosen, questions)
  return dict(by_metric)


def chance(task: PromptedTask, questions: Sequence[Question]) -> float | None:
  """Returns the accuracy of a random choice; None if nothing is chosen."""
  if task.form not in ('choices', 'partial') or 'accuracy' not in task.metrics:
    return None
  return float(np.mean([len(q.gold) / len(q.answers) for q in questions]))


def share(right: int, count: int) -> dict[str, float]:
  """Returns a share with Wilson's interval."""
  low, high = statistics.wilson(right, count)
  return {'value': right / count, 'low': low, 'high': high}


def _mean(values: np.ndarray) -> dict[str, float]:
  """Returns a mean with its bootstrap interval."""
  low, high = statistics.interval(lambda x, _: float(np.mean(x)), values, values)
  return {'value': float(np.mean(values)), 'low': low, 'high': high}


def _chosen(
  metric: str, chosen: list[int], questions: Sequence[Question]
) -> dict[str, float]:
  """Returns a metric of chosen options."""
  if metric == 'accuracy':
    right = [c in q.gold for c, q in zip(chosen, questions, strict=True)]
    return share(sum(right), len(right))
  labels = [question.gold[0] for question in questions]
  if metric == 'question_accuracy':
    groups = [question.group for question in questions]
    value = text_metrics.question_accuracy(chosen, labels, groups)
    count = len(set(groups))
    return share(round(value * count), count)
  measure = text_metrics.macro_f1 if metric == 'macro_f1' else getattr(metrics, metric)
  low, high = statistics.interval(measure, np.array(chosen), np.array(labels))
  return {'value': measure(chosen, labels), 'low': low, 'high': high}


def _written(
  task: PromptedTask, metric: str, pairs: list[tuple[Question, Record]]
) -> dict[str, float]:
  """Returns a metric of texts that the model wrote."""
  texts = [record['text'] for _, record in pairs]
  if metric == 'bleu':
    return _bleu(texts, [question.answers for question, _ in pairs])
  judge: Callable = text_metrics.METRICS[metric]
  values = []
  for text, (question, _) in zip(texts, pairs, strict=True):
    extra = {'right': bool(question.gold)} if metric == 'coreference' else {}
    if metric.startswith('rouge'):
      text = text_metrics.sentences(text, 3)  # GPT-2, section 3.6
    values.append(judge(text, question.answers, **extra))
  values = np.array(values)
  if np.isin(values, (0, 1)).all():
    return share(int(values.sum()), len(values))
  return _mean(values)


def _bleu(texts: list[str], references: list[tuple[str, ...]]) -> dict[str, float]:
  """Returns BLEU and its 95 % bootstrap interval over questions."""
  rng, count = np.random.default_rng(0), len(texts)
  drawn = rng.integers(count, size=(_DRAWS, count))
  values = [
    text_metrics.bleu([texts[i] for i in some], [references[i] for i in some])
    for some in drawn
  ]
  low, high = np.quantile(values, [0.025, 0.975])
  value = text_metrics.bleu(texts, references)
  return {'value': value, 'low': float(low), 'high': float(high)}
