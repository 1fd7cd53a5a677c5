"""Which sentences of a lesson claim something, and whether a check backs them.

In a check, a comment quotes the sentence that the assertions below it back; `…` leaves words out:

    # "0.6 lands farther away each time"
    assert (np.diff(np.abs(paths[0.6])) > 0).all()

`# Premise: …` in its place marks assertions that only the check needs.

A sentence claims something if it holds a number, a comparison or a reason. Its numbers and reasons must be quoted, so a
number that is changed in the prose is noticed; of a comparison, some part. A sentence that names its source needs no
check: author and year, arXiv, an issue, a benchmark of this repository, another lesson.

Words alone cannot tell a claim, so these rules are weak on purpose. Before the first code of a section, numbers and
comparisons describe the setting, and only reasons count. Predictions, questions, exercises and formulas on lines of
their own never count, nor does a "So" that begins a sentence: it draws a conclusion, or just goes on.

    uv run python tests/lessons/claims.py     names what is missing
"""

import re

from lessons import LESSONS, is_check, python, read

NUMBER = re.compile(
    r"\d+(?:,\d{3})*(?:\.\d+)?|\b(?:half|halve[sd]?|twice|doubled?|\w+ times|"
    r"(?:a|one|two|three|four) (?:third|quarter|fifth|sixth|tenth|twentieth|fiftieth|hundredth|thousandth|ten-thousandth)s?)\b",
    re.I,
)
COMPARATIVE = (
    "larger|smaller|higher|lower|faster|slower|longer|shorter|closer|farther|fewer|earlier|steeper|calmer|better|worse"
)
COMPARISON = re.compile(
    r"\b(?:than|best|worst|equal|equally|diverges?|converges?|differs?|(?:large|small|high|low|fast|slow|long|short|close|"
    r"farth|few|steep|shallow|calm)e?st)\b|\b(?:above|below|beyond) \S"
    rf"|(?<!no )\b(?:{COMPARATIVE})(?=[.,:;]| (?:and|each|every|at|in|on|by|towards)\b)",
    re.I,
)
REASON = re.compile(
    r"\b(?:because|since(?! then)|therefore|thus|hence|due to|owing to|thanks to|(?:this|that) is why|"
    r"for (?:this|that|the same) reason)\b"
    r"|, (?:and )?so\b(?! (?:that|far|on|much|many|do|does|did|is|are|they do|it does|let|from here|the question)\b)"
    r"|, as (?:the|it|they|each|its|their|this|there)\b(?![^,.;]* (?:do|does|did|is|was|were)\b)",
    re.I,
)
SOURCE = re.compile(
    r"\b[A-Z]\w+(?: et al\.?| and [A-Z]\w+)?,? \(?(?:19|20)\d\d\b|arXiv|#\d{3,}|`benchmarks/|\b[Ll]esson \d\d"
)
# What is no number: code, addresses, years, the number of a lesson or of an exercise.
MASKED = re.compile(r"`[^`]*`|\]\([^)]*\)|https?://\S+|\b(?:19|20)\d\d\b|\b(?:lessons?|exercises?) \d+", re.I)
END = re.compile(r"(?<!et al)(?<!e\.g)(?<!i\.e)[.!?][)*\"”]*\s+")
COMMENT = re.compile(r'^[ \t]*# (?=Premise: |")(.*(?:\n[ \t]*# .*)*)', re.M)
ASSERTION = re.compile(r"^\s*assert\b", re.M)


def problems(notebook):
    """What is wrong with a notebook's claims, a sentence each."""
    found, quotes = [], []
    for cell in notebook.cells:
        if cell.cell_type == "code" and is_check(cell):
            before, *parts = COMMENT.split(python(cell.source))
            pairs = list(zip(parts[::2], parts[1::2], strict=True))
            quotes += [(cell.id, quote) for comment, _ in pairs for quote in quoted(comment)]
            found += [f"{cell.id}: an assertion below no quote"] * bool(ASSERTION.search(before))
            found += [
                f"{cell.id}: no assertion below {comment}" for comment, code in pairs if not ASSERTION.search(code)
            ]
    texts = list(sentences(notebook))
    found += [
        f'{cell}: in no sentence: "{quote}"' for cell, quote in quotes if not any(spans(quote, s) for _, s, _ in texts)
    ]
    for cell, text, claims in texts:
        covered = [span for _, quote in quotes for span in spans(quote, text)]
        missing = [
            word[0]
            for pattern in claims
            for word in pattern.finditer(MASKED.sub(lambda masked: " " * len(masked[0]), text))
            if not (
                covered if pattern is COMPARISON else any(a <= word.start() and word.end() <= b for a, b in covered)
            )
        ]
        if missing:
            found.append(f"{cell}: no check quotes {', '.join(missing)} in: {text}")
    return found


def quoted(comment):
    """The quotes in a comment of one line or more."""
    return re.findall(r'"([^"]+)"', re.sub(r"\n[ \t]*#", "", comment))


def sentences(notebook):
    """Each sentence of the prose as `(cell id, text, which patterns make it a claim)`."""
    for section in sections(notebook):
        setting = any(cell.cell_type == "code" for cell in section)
        for cell in section:
            if cell.cell_type == "code":
                setting = False
                continue
            for block in re.split(r"\n\s*\n|\n(?=- |\d+\. )", cell.source.split("## Exercises")[0]):
                block = re.sub(r"^(?:- |\d+\. )", "", " ".join(block.split()))
                if block.startswith(("#", "$$", "[![")):
                    continue
                for text in END.sub(lambda end: end[0] + "\n", block).split("\n"):
                    text = text.strip()
                    free = block.startswith("**Predict") or text.rstrip("*").endswith("?") or SOURCE.search(text)
                    yield cell.id, text, [] if free else [REASON] if setting else [NUMBER, COMPARISON, REASON]


def sections(notebook):
    """The cells from one heading to the next."""
    found = [[]]
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("#"):
            found.append([])
        found[-1].append(cell)
    return found


def spans(quote, text):
    """Where the pieces of a quote are in a sentence, in their order; [] if one is missing."""
    found, start = [], 0
    for piece in quote.split("…"):
        piece = " ".join(piece.split())
        if (at := text.find(piece, start)) < 0:
            return []
        start = at + len(piece)
        found.append((at, start))
    return found


if __name__ == "__main__":
    for path in LESSONS:
        print(path.stem, *problems(read(path)), sep="\n  ")
