"""Which assertion backs which sentence.

In a check, a comment that quotes the prose stands above the assertions that back what it quotes:

    # "0.6 lands farther away each time"
    assert (np.diff(np.abs(paths[0.6])) > 0).all()

A quote may leave words out (…), and lies within one sentence; it holds for the assertions down to the next such comment or
the end of the cell. `# Premise: …` in its place marks assertions that the check itself needs. Sentences that state no
result stand in their cell's metadata, `no_claim`: {sentence: reason}.

    python tests/lessons/claims.py                  counts claims
    python tests/lessons/claims.py notebooks/01…    lists every sentence with its assertions
"""

import ast
import io
import re
import sys
import tokenize
from dataclasses import dataclass, field

import nbformat
from lessons import ROOT, is_check, source
from prose import sentences

from lrtut.cli import find_lessons

AGAIN = "remember"  # the cell that says claims once more; a quote from it stands beside the first
DIGIT = re.compile(r"\d")


@dataclass
class Claims:
    """A notebook's sentences, what backs them, and what is wrong with that.

    Attributes:
        backed: for each sentence that is quoted, the assertions `(cell id, line)` that back it.
        exempt: for each sentence with a reason in `no_claim`, the reason.
        quotes: for each assertion the sentences above it; empty for a premise.
        problems: what a maintainer must mend, in words.
    """

    backed: dict = field(default_factory=dict)
    exempt: dict = field(default_factory=dict)
    quotes: dict = field(default_factory=dict)
    problems: list = field(default_factory=list)


def claims(notebook):
    """Read a notebook (nbformat) as `Claims`."""
    found = Claims()
    texts = [s for c in notebook.cells if c.cell_type == "markdown" and c.id != "title" for s in sentences(c)]
    covered = {s: [] for s in texts}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for text, reason in cell.metadata.get("no_claim", {}).items():
                for s in one_sentence(text, [s for s in texts if s.cell == cell.id], f"{cell.id}, no_claim", found):
                    found.exempt[s] = reason
                    covered[s] += spans(text, s.text)
                    if len(reason) < 5:
                        found.problems.append(f"{cell.id}: no reason why this is no claim: {text}")
        elif is_check(cell):
            for line, quotes in quoted(cell).items():
                place = f"{cell.id}, line {line}"
                if quotes is None:
                    found.problems.append(f"{place}: the assertion quotes no sentence and is no premise")
                    continue
                here = found.quotes[cell.id, line] = []
                for quote in quotes:
                    for s in one_sentence(quote, texts, place, found):
                        here.append(s)
                        covered[s] += spans(quote, s.text)
                        if (cell.id, line) not in found.backed.setdefault(s, []):
                            found.backed[s].append((cell.id, line))
                if len({s for s in here if s.cell != AGAIN}) > 1:
                    found.problems.append(f"{place}: one assertion for two claims; give each its own")
    for s in texts:
        open_ = [s.text[a:b] for a, b in s.triggers if not any(x <= a and b <= y for x, y in covered[s])]
        if s in found.backed:  # a sentence is backed as a whole, but each of its numbers must be quoted
            open_ = [word for word in open_ if DIGIT.search(word)]
        if open_:
            found.problems.append(f"{s.cell}: no check for {', '.join(open_)} in: {s.text}")
    return found


def quoted(cell):
    """For each assertion of a check, by line: the quotes above it, [] below `# Premise:`, None without either."""
    blocks, block = {}, []
    for token in tokenize.generate_tokens(io.StringIO(source(cell)).readline):
        alone = token.type == tokenize.COMMENT and token.line.strip() == token.string
        if alone:
            comment = token.string.removeprefix("#").strip()
            if comment.startswith(('"', "Premise: ")) and not "".join(block).startswith('"'):
                block = []  # what stands above it is a comment of another kind
            block.append(comment)
        elif block and token.type not in (tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT):
            text = " ".join(block)
            if text.startswith("Premise: "):
                blocks[token.start[0]] = []
            elif text.startswith('"'):
                blocks[token.start[0]] = re.findall(r'"([^"]+)"', text)
            block = []
    lines = sorted(n.lineno for n in ast.walk(ast.parse(source(cell))) if isinstance(n, ast.Assert))
    above = {line: max((at for at in blocks if at <= line), default=None) for line in lines}
    return {line: None if at is None else blocks[at] for line, at in above.items()}


def one_sentence(quote, texts, place, found):
    """The sentence that a quote is from, as a list; a problem if there is none or more than one."""
    fits = [s for s in texts if spans(quote, s.text)]
    if len(fits) == 1:
        return fits
    where = "is in no sentence" if not fits else "is in more than one sentence: " + "; ".join(map(str, fits))
    found.problems.append(f'{place}: "{quote}" {where}')
    return []


def spans(quote, text):
    """Where the pieces of a quote stand in a sentence, in their order; [] where one is missing."""
    start, found = 0, []
    for piece in quote.split("…"):
        piece = " ".join(piece.split())
        at = text.find(piece, start)
        if at < 0:
            return []
        start = at + len(piece)
        found.append((at, start))
    return found


def main():
    total = 0
    for path in [*sys.argv[1:]] or find_lessons(ROOT):
        found = claims(nbformat.read(path, as_version=4))
        if sys.argv[1:]:
            for s, places in found.backed.items():
                print(f"{s}\n    " + ", ".join(f"{cell} line {line}" for cell, line in places))
            for s, reason in found.exempt.items():
                print(f"{s}\n    no claim: {reason}")
        premises = sum(not quotes for quotes in found.quotes.values())
        print(
            f"{getattr(path, 'stem', path)}: {len(found.backed)} claims backed by {len(found.quotes) - premises} assertions "
            f"({premises} premises), {len(found.exempt)} sentences that are no claim, {len(found.problems)} problems"
        )
        total += len(found.backed)
        print(*found.problems, sep="\n", end="\n" if found.problems else "")
    print(f"{total} claims")


if __name__ == "__main__":
    main()
