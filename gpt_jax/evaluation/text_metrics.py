"""Metrics of what a model wrote or chose, by name; without jax.

Of one answer, from 0 to 1, to be averaged over questions: `exact`, `em`, `f1`,
`coqa_f1`, `drop_f1`, `coreference`, `rouge1`, `rouge2`, `rougeL`. Each takes what was
written and the answers that are accepted; the best of them counts. Of all questions at
once: `bleu`; `macro_f1` of classes; `question_accuracy` of groups.
"""

import collections
import importlib
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

from gpt_jax.config import UserError
from gpt_jax.evaluation import metrics


def normalized(text: str) -> str:
  """Returns a text as SQuAD compares it (Rajpurkar et al. 2016, the release's script).

  In lower case, without punctuation, then without the words a, an and the, one space
  between words.
  """
  kept = ''.join(c for c in text.lower() if c not in string.punctuation)
  return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', kept).split())


def exact(written: str, answers: Sequence[str]) -> float:
  """Returns 1 if an answer was written to the letter, but for spaces around it.

  Arithmetic needs it: `em` forgets the sign of a number.
  """
  return float(written.strip() in [answer.strip() for answer in _checked(answers)])


def em(written: str, answers: Sequence[str]) -> float:
  """Returns 1 if an answer was written, both `normalized`."""
  return float(normalized(written) in map(normalized, _checked(answers)))


def f1(written: str, answers: Sequence[str]) -> float:
  """Returns the F1 of words, `normalized`, with the answer that is most alike.

  As in SQuAD 2.0 (Rajpurkar et al. 2018) two empty texts agree, and an empty one agrees
  with no other: an accepted '' is a question without an answer.
  """
  return max(
    _overlap(normalized(written).split(), normalized(answer).split())
    for answer in _checked(answers)
  )


def coqa_f1(written: str, answers: Sequence[str]) -> float:
  """Returns the mean of `f1` over all ways to leave one of several answers out.

  So a model is compared with as many answers as a person can be (Reddy et al. 2019),
  and no answer has full marks where the answers differ.
  """
  answers = _checked(answers)
  if len(answers) == 1:
    return f1(written, answers)
  left = [[*answers[:i], *answers[i + 1 :]] for i in range(len(answers))]
  return sum(f1(written, each) for each in left) / len(left)


def drop_f1(written: str, answers: Sequence[str]) -> float:
  """Returns the F1 of sets of words where numbers agree, else 0 (Dua et al. 2019).

  An answer with numbers needs one of them written. Differs: an answer of several spans
  is one set of words, while the release pairs spans.
  """
  words = _drop_words(written)
  scores = []
  for wanted in map(_drop_words, _checked(answers)):
    numbers = {word for word in wanted if _is_number(word)}
    agree = not numbers or numbers & words
    scores.append(_overlap(list(words), list(wanted)) if agree else 0.0)
  return max(scores)


def _drop_words(text: str) -> set[str]:
  """Returns the words of a text, numbers alike: 4,000 and 4000.0."""
  words = set()
  for word in re.split(r'[\s-]+', text.lower()):
    bare = word if _is_number(word) else normalized(word)
    words |= {str(float(bare))} if _is_number(bare) else set(bare.split())
  return words


def _is_number(word: str) -> bool:
  return bool(re.fullmatch(r'\d+(\.\d*)?|\.\d+', word))


def _overlap(words: list[str], wanted: list[str]) -> float:
  """Returns the F1 of two bags of words; of two empty ones it is 1."""
  if not words or not wanted:
    return float(words == wanted)
  common = (collections.Counter(words) & collections.Counter(wanted)).total()
  return 2 * common / (len(words) + len(wanted))


def coreference(written: str, answers: Sequence[str], right: bool = True) -> float:
  """Returns 1 if the noun was named, or was not where it is the wrong one.

  It was if the words of one are all among those of the other, `normalized`. `answers`
  is the noun that the file asks about, `right` whether the pronoun refers to it.
  """
  words = set(normalized(written).split())
  nouns = [set(normalized(answer).split()) for answer in _checked(answers)]
  named = bool(words) and any(words <= noun or noun <= words for noun in nouns)
  return float(named == right)


def macro_f1(predictions: Sequence[int], labels: Sequence[int]) -> float:
  """Returns the mean over the classes of the labels of F1, one class against the rest.

  CB's (Wang et al. 2019, SuperGLUE); a class that is never predicted has 0.
  """
  classes = sorted(set(labels))
  scores = [
    metrics.f1([p == each for p in predictions], [label == each for label in labels])
    for each in classes
  ]
  return sum(scores) / len(scores) if scores else metrics.f1([], [])


def question_accuracy(
  predictions: Sequence[int], labels: Sequence[int], groups: Sequence[str]
) -> float:
  """Returns the share of groups all of whose predictions are the label (MultiRC)."""
  right: dict[str, bool] = {}
  for prediction, label, group in zip(predictions, labels, groups, strict=True):
    right[group] = right.get(group, True) and prediction == label
  return metrics.accuracy(list(right.values()), [True] * len(right))


def bleu(written: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
  """Returns sacreBLEU of all texts, from 0 to 100, tokenized as in GPT-3 (`intl`).

  Args:
    written: [texts].
    answers: [texts][references], as many of each text.

  Raises:
    UserError: sacrebleu is not installed; there are no texts, or not as many of each.
  """
  sacrebleu = _import('sacrebleu', 'sacrebleu')
  if (
    not len(written) or len(written) != len(answers) or len(set(map(len, answers))) > 1
  ):
    raise UserError(
      f'{len(written)} texts and {len(answers)} lists of references: there must be as '
      'many, one at least, and lists of one length'
    )
  references = [[text.strip() for text in each] for each in zip(*answers, strict=True)]
  score = sacrebleu.corpus_bleu(
    [text.strip() for text in written], references, tokenize='intl', smooth_method='exp'
  )
  return float(score.score)


def rouge1(written: str, answers: Sequence[str]) -> float:
  """Returns the F1 of single words, stemmed (Lin 2004)."""
  return _rouge('rouge1', written, answers)


def rouge2(written: str, answers: Sequence[str]) -> float:
  """Returns the F1 of pairs of words, stemmed (Lin 2004)."""
  return _rouge('rouge2', written, answers)


def rougeL(written: str, answers: Sequence[str]) -> float:
  """Returns the F1 of longest common subsequences; a sentence is a line."""
  return _rouge('rougeLsum', written, answers)


def _rouge(kind: str, written: str, answers: Sequence[str]) -> float:
  scorer = _import('rouge_score.rouge_scorer', 'rouge-score')
  score = scorer.RougeScorer([kind], use_stemmer=True).score
  return max(
    float(score(answer, written)[kind].fmeasure) for answer in _checked(answers)
  )


def sentences(text: str, most: int) -> str:
  """Returns the first sentences of a text, one a line, by their marks and line ends."""
  parts = re.split(r'(?<=[.!?])["\')]*\s+|\n+', text.strip())
  return '\n'.join([part.strip() for part in parts if part.strip()][:most])


METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
  each.__name__: each
  for each in (exact, em, f1, coqa_f1, drop_f1, coreference, rouge1, rouge2, rougeL)
}


def _checked(answers: Sequence[str]) -> Sequence[str]:
  """Returns the answers, of which there must be one."""
  if isinstance(answers, str) or not len(answers):
    raise UserError(f'answers {answers!r} must be a list with one text at least')
  return answers


def _import(module: str, package: str) -> Any:
  """Returns an optional module; a UserError says how to install it."""
  try:
    return importlib.import_module(module)
  except ImportError as e:
    raise UserError(f'this metric needs {package}: `pip install {package}`') from e
