"""One report in two forms: Markdown, and a page that holds its own pictures."""

import base64
import html as escape
import io
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from gpt_jax.config import UserError
from gpt_jax.files import write_whole

_TEMPLATE = pathlib.Path(__file__).with_suffix('.html')


class Title(NamedTuple):
  """A heading; level 1 is the page's."""

  text: str
  level: int = 2


class Words(NamedTuple):
  """A paragraph; `code` in backticks, **strong** words."""

  text: str


class Notes(NamedTuple):
  """A list, each item as `Words`."""

  items: Sequence[str]


class Code(NamedTuple):
  """A command, or a text whose lines are to stay; those too long for a page wrap."""

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


Part = Title | Words | Notes | Code | Table | Picture


def folder(target: str | pathlib.Path) -> pathlib.Path:
  """Returns the folder of a report, made where it is missing.

  Raises:
    UserError: it is a file.
  """
  target = pathlib.Path(target)
  if target.exists() and not target.is_dir():
    raise UserError(f'target={target} is a file and must be a folder; choose another')
  target.mkdir(parents=True, exist_ok=True)
  return target


def write(
  target: str | pathlib.Path,
  name: str,
  parts: Sequence[Part],
  figures: Mapping[str, Figure | None],
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes NAME.md with its pictures, and NAME.html, and returns the paths of the two.

  Args:
    target: a folder, made where it is missing; an older report in it is replaced.
    name: of the report.
    parts: of it.
    figures: the pictures by name; an older one is removed where there is None.

  Raises:
    UserError: the target is a file.
  """
  target, pictures = folder(target), {}
  for title, figure in figures.items():
    path, staged = target / f'{title}.png', target / f'.{title}.png'
    if figure is None:
      path.unlink(missing_ok=True)
      continue
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130, format='png')
    pictures[title] = buffer.getvalue()
    staged.write_bytes(buffer.getvalue())
    staged.replace(path)
  write_whole(target / f'{name}.md', markdown(parts))
  write_whole(target / f'{name}.html', html(parts, pictures))
  return target / f'{name}.md', target / f'{name}.html'


def markdown(parts: Sequence[Part]) -> str:
  """Returns a report as Markdown, beside which its pictures lie."""
  return '\n\n'.join(map(_markdown, parts)) + '\n'


def _markdown(part: Part) -> str:
  match part:
    case Title(text, level):
      return f'{"#" * level} {text}'
    case Words(text):
      return text
    case Notes(items):
      return '\n'.join(f'- {item}' for item in items)
    case Code(text):
      fence = '`' * max(3, *(len(run) + 1 for run in re.findall('`+', text)), 0)
      return f'{fence}\n{text}\n{fence}'
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
    case Notes(items):
      return f'<ul>{"".join(f"<li>{_inline(item)}</li>" for item in items)}</ul>'
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


def code(text: str) -> str:
  """Returns a text as code within `Words`, with as many backticks as it needs."""
  if '`' not in text:
    return f'`{text}`'
  ticks = '`' * (1 + max(map(len, re.findall('`+', text))))
  return f'{ticks} {text} {ticks}'


def _inline(text: str) -> str:
  found = []
  for i, part in enumerate(re.split(r'(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)', text)):
    kind, part = i % 3, escape.escape(part)
    if kind == 0:  # between codes
      found.append(re.sub(r'\*\*([^*]+)\*\*', r'<strong>\1</strong>', part))
    elif kind == 2:
      found.append(f'<code>{part.strip()}</code>')
  return ''.join(found)
