"""One report in two forms: Markdown, and a page that holds its own pictures."""

import base64
import html as escape
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_TEMPLATE = pathlib.Path(__file__).with_name('page.html')


class Title(NamedTuple):
  """A heading; level 1 is the page's."""

  text: str
  level: int = 2


class Words(NamedTuple):
  """A paragraph; `code` in backticks."""

  text: str


class Code(NamedTuple):
  """A command."""

  text: str


class Table(NamedTuple):
  """A table; every column from `numbers` on holds numbers."""

  head: Sequence[str]
  rows: Sequence[Sequence[str]]
  numbers: int


class Picture(NamedTuple):
  """A plot, by the name of its PNG without .png, and what it shows."""

  name: str
  text: str


Part = Title | Words | Code | Table | Picture


def markdown(parts: Sequence[Part]) -> str:
  """Returns a report as Markdown, beside which its pictures lie."""
  return '\n\n'.join(map(_markdown, parts)) + '\n'


def _markdown(part: Part) -> str:
  match part:
    case Title(text, level):
      return f'{"#" * level} {text}'
    case Words(text):
      return text
    case Code(text):
      return f'```\n{text}\n```'
    case Picture(name, text):
      return f'![{name}]({name}.png)\n\n{text}'
    case Table(head, rows, numbers):
      lines = ['---' if i < numbers else '---:' for i in range(len(head))]
      cells = (
        [str(cell).replace('|', r'\|') for cell in row] for row in (head, lines, *rows)
      )
      return '\n'.join(f'| {" | ".join(row)} |' for row in cells)


def html(parts: Sequence[Part], pictures: Mapping[str, bytes]) -> str:
  """Returns a report as one page.

  Args:
    parts: of it.
    pictures: PNGs by name.
  """
  title = next(part.text for part in parts if isinstance(part, Title))
  body = '\n'.join(_html(part, pictures) for part in parts)
  page = _TEMPLATE.read_text(encoding='utf-8')
  return page.replace('<!--TITLE-->', escape.escape(title)).replace('<!--BODY-->', body)


def _html(part: Part, pictures: Mapping[str, bytes]) -> str:
  match part:
    case Title(text, level):
      return f'<h{level}>{_inline(text)}</h{level}>'
    case Words(text):
      return f'<p>{_inline(text)}</p>'
    case Code(text):
      return f'<pre>{escape.escape(text)}</pre>'
    case Picture(name, text):
      packed = base64.b64encode(pictures[name]).decode()
      return (
        f'<figure><img alt="{escape.escape(text)}" '
        f'src="data:image/png;base64,{packed}">'
        f'<figcaption>{_inline(text)}</figcaption></figure>'
      )
    case Table(head, rows, numbers):
      lines = [
        ''.join(
          f'<{tag}{" class=n" if i >= numbers else ""}>{_inline(str(cell))}</{tag}>'
          for i, cell in enumerate(row)
        )
        for tag, row in [('th', head), *(('td', row) for row in rows)]
      ]
      first, *rest = (f'<tr>{line}</tr>' for line in lines)
      body = '\n'.join(rest)
      return (
        f'<div class="table"><table><thead>{first}</thead>\n<tbody>{body}</tbody>'
        '</table></div>'
      )


def _inline(text: str) -> str:
  return re.sub(r'`([^`]*)`', r'<code>\1</code>', escape.escape(text))
