"""Claims in a lesson's prose: which sentences hold a number or a comparison, and which words make them one."""

import re
from dataclasses import dataclass

# What is no prose, or a number that is no result: code, addresses, years of a source, the number of a lesson.
MASKED = re.compile(
    r"`[^`]*`|\]\([^)]*\)|https?://\S+|\b(?:19|20)\d\d\b|\b(?:lessons?|exercises?) \d+(?:'s)?|\(exercises? \d+\)",
    re.I,
)
# A number in digits with its sign, exponent or per cent; in math too.
DIGITS = r"\d+(?:,\d{3})*(?:\.\d+)?"
COUNTS = (
    "two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|thirty|fifty|hundred|thousand|half|halves|halved|"
    "twice|double[sd]?|thirds?|quarters?|fifth|tenths?|twentieth|fiftieth|hundredth|thousandth|ten-thousandth"
)
COMPARED = (
    "larger|largest|smaller|smallest|higher|highest|lower|lowest|faster|fastest|slower|slowest|longer|longest|shorter|"
    "shortest|closer|closest|farther|farthest|better|best|worse|worst|fewer|earlier|steeper|steepest|shallowest|"
    "calmest|calmer|above|below|beyond|more than|less than|than|equal|equally|same|"
    "diverges?|diverged|converges?|oscillates?|grows?|shrinks?|climbs?|falls?|fell|rises?|freezes?|"
    "jumps? across|hardly|nearly|most|never|always|none|nothing|ratio|differs?|wrong|to the (?:last )?bit|\\w+ times"
)
TRIGGER = re.compile(rf"{DIGITS}|\b(?:{COUNTS})\b|\b(?:{COMPARED})\b", re.I)
END = re.compile(r"(?<!et al)(?<!e\.g)(?<!i\.e)[.!?][)*\"”]*\s+")


@dataclass(frozen=True)
class Sentence:
    """One sentence of a markdown cell, with single spaces, and where its numbers and comparisons stand in it."""

    cell: str
    text: str
    triggers: tuple[tuple[int, int], ...]

    def __str__(self):
        return f"{self.cell}: {self.text}"


def sentences(cell):
    """The sentences of a markdown cell; headings, formulae on lines of their own, exercises and sources are none."""
    found = []
    for block in re.split(r"\n\s*\n|\n(?=- |\d\. )", cell.source.split("## Exercises")[0]):
        block = re.sub(r"^(?:- |\d\. )", "", " ".join(block.split()))
        if block.startswith(("#", "$$", "[![")):
            continue
        start = 0
        for end in [*(m.end() for m in END.finditer(block)), len(block)]:
            if text := block[start:end].strip():
                found.append(Sentence(cell.id, text, _triggers(text)))
            start = end
    return found


def _triggers(text):
    if text.rstrip("*").endswith("?"):  # a question states nothing
        return ()
    masked = MASKED.sub(lambda m: " " * len(m[0]), text)
    return tuple(m.span() for m in TRIGGER.finditer(masked))
