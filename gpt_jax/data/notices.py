"""What a first reading notices: files left out, and text that is another format's."""

import json
import re

from gpt_jax.data.pieces import Part
from gpt_jax.tokenizers.protocol import EOT

_HEAD = 1 << 16  # characters of a document by which its format is judged
_NULS = 10  # per cent of a document: of English in UTF-16 half the bytes are NUL
# A closing tag for every so many characters, 5 at least and of two names, is markup; of
# one name it may be a mark of a corpus, as </s> is.
_TAG_EVERY = 500
_CLOSING = re.compile(r'</[A-Za-z][\w:.-]{0,40}\s*>')
_BEGINS = re.compile(r'\s*<(?:!doctype html|html[\s>]|\?xml\s)', re.IGNORECASE)

KINDS = {
  'junk': 'left out {} that an operating system put there',
  'whole': 'data.separator divides nothing in {}',
  'named': f'{{}} with {EOT} in the text, which is read as characters; in a .txt '
  f"--config.data.separator='{EOT}' makes documents of what is between",
  'json': '{} that begin like JSON and are read as plain text; call a list of objects '
  '.json, and an object a line .jsonl, to read the texts in them',
  'nul': f'{{}} of which {_NULS} % or more are NUL, as of UTF-16 without its mark; '
  'convert them to UTF-8',
  'markup': '{} that look like HTML or XML, whose tags are read as text; take the text '
  'out of them first',
}


class Notices:
  """Counts what is noticed, by kind, and keeps the first name of each."""

  def __init__(self):
    self._found: dict[str, tuple[int, str]] = {}
    self._name, self._size, self._nuls, self._named = '', 0, 0, False

  def tell(self, kind: str, name: str) -> None:
    """Counts one of a kind of `KINDS`: a file, or a document."""
    count, first = self._found.get(kind, (0, name))
    self._found[kind] = count + 1, first

  def watch(self, part: Part) -> None:
    """Looks at the next part of the documents."""
    if part.first:
      self._close()
      self._name, self._size, self._nuls, self._named = part.name, 0, 0, False
      head = part.text[:_HEAD]
      if _is_json(head):
        self.tell('json', part.name)
      elif _is_markup(head):
        self.tell('markup', part.name)
    self._size += len(part.text)
    self._nuls += part.text.count('\0')
    if not self._named and EOT in part.text:
      self._named = True
      self.tell('named', part.name)

  def _close(self) -> None:
    """Judges the document that was read, if there is one."""
    if self._nuls * 100 >= self._size * _NULS > 0:
      self.tell('nul', self._name)
    self._size = 0

  def lines(self) -> list[str]:
    """Returns what was noticed, a line for each kind, once all is read."""
    self._close()
    lines = []
    for kind, words in KINDS.items():
      if kind in self._found:
        count, first = self._found[kind]
        what = 'file(s)' if kind in ('junk', 'whole') else 'document(s)'
        lines.append(f'{words.format(f"{count:,} {what}")}; the first: {first}')
    return lines


def _is_json(head: str) -> bool:
  """Returns whether a text begins with a JSON object, or a list of such or of texts."""
  begin = re.match(r'\s*\[\s*', head)
  at = begin.end() if begin else len(head) - len(head.lstrip())
  try:
    first, end = json.JSONDecoder().raw_decode(head, at)
  except (ValueError, RecursionError):
    return False
  if isinstance(first, str):  # alone it may be a quotation
    return bool(begin and re.match(r'\s*,\s*"', head[end:]))
  return bool(first) and isinstance(first, dict)


def _is_markup(head: str) -> bool:
  """Returns whether a text begins as HTML or XML, or has many closing tags."""
  if _BEGINS.match(head):
    return True
  tags = _CLOSING.findall(head)
  return len(tags) >= max(5, len(head) / _TAG_EVERY) and len(set(tags)) > 1
