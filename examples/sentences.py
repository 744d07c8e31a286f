"""English sentences for calibration and, made of other words, for evaluation.

Every sentence is one of a few patterns filled from the lists below, drawn with a fixed seed. Calibration
takes the phrases with an even index of each list, evaluation those with an odd one, so the two share the
patterns' function words and nothing else. They are 10 to 52 tokens long for MiniLM, about 27 on average.
"""

from __future__ import annotations

import random


def _phrases(text: str) -> list[str]:
    return text.strip().replace("\n", "|").split("|")


OPENINGS = _phrases(
    """
last winter|in the early morning|after a long delay|according to the report|on most evenings
without any warning|to everyone's surprise|during the second half|in spite of the rain
as far as I can tell|before the war|at the end of the day|somewhere near the border
for the third time this year|under the old rules|by pure accident
    """
)
SUBJECTS = _phrases(
    """
the film|a retired engineer|the younger sister|our neighbour's dog|the committee|a small bakery
the opening chapter|the new vaccine|an experienced climber|the city council|the leading actress
a flock of geese|the software update|the history teacher|the lighthouse keeper|a team of biologists
the orchestra|my grandmother's recipe|the mayor|the documentary|a stray satellite|the goalkeeper
the translation|an anonymous donor|the night train|the judge|a curious child|the spring festival
the telescope|the screenplay|the fishing boat|a worn leather suitcase
    """
)
VERBS = _phrases(
    """
forgot to mention|slowly uncovered|could not explain|gracefully avoided|rebuilt
was never meant to replace|loudly celebrated|quietly sold|borrowed|will probably outlive|almost ruined
carefully described|refused to sign|finally reached|photographed|underestimated|seems to enjoy
has always defended|threw away|patiently repaired
    """
)
OBJECTS = _phrases(
    """
the missing letters|a surprisingly tender ending|three hundred litres of clean water
the oldest bridge in the valley|its own clichés|a proof of the conjecture|the annual budget
every single promise|two loaves of rye bread|a rare species of orchid|the final penalty
an unfinished symphony|the melting glacier|a bag of counterfeit coins|the whole neighbourhood
a confusing set of instructions|his reputation|the weather station's records
a plate of roasted chestnuts|the stolen manuscript|the distant coastline|an elegant argument
some very bad dialogue|the children's applause|a tax on imported steel|the hidden camera
her first marathon|the smell of burnt sugar
    """
)
ENDINGS = _phrases(
    """
and nobody complained|because the batteries were empty|although critics had warned against it
while the band kept playing|which is more than we expected|so the meeting was moved to Thursday
until the snow had melted|and the price fell by nearly forty percent
but the joke wears thin after twenty minutes|where the river meets the sea|as if nothing had happened
long before anyone wrote it down|and I would gladly see it again|even though the evidence was thin
with remarkable warmth and very little money|since the museum closes at six|unless the wind turns
in a language that only four people still speak
    """
)

# a second draw from the same list is {s2}, {v2}, ...
PATTERNS = (
    "{s} {v} {o}.",
    "{s} {v} {o}, {e}.",
    "{a}, {s} {v} {o}, {e}.",
    "{a}, {s} {v} {o}, {e}.",
    "{s}, like {s2}, {v} {o}, {e}.",
    "{a}, {s} {v} {o}, and {s2} {v2} {o2}, {e}.",
    "did {s} know that {s2} {v} {o}, {e}?",
    "{s} {v} {o}; {a2}, {s2} {v2} {o2}, {e}, {e2}.",
)


def calibration_sentences(count: int = 64) -> list[str]:
    """The first ``count`` sentences of the calibration half."""
    return _sentences(count, half=0)


def evaluation_sentences(count: int = 256) -> list[str]:
    """The first ``count`` sentences of the evaluation half."""
    return _sentences(count, half=1)


def _sentences(count: int, half: int) -> list[str]:
    draw = random.Random(half)
    lists = {"a": OPENINGS, "s": SUBJECTS, "v": VERBS, "o": OBJECTS, "e": ENDINGS}
    halves = {name: words[half::2] for name, words in lists.items()}
    found: dict[str, None] = {}
    while len(found) < count:
        words: dict[str, str] = {}
        for name, choices in halves.items():
            words[name], words[name + "2"] = draw.sample(choices, 2)
        sentence = draw.choice(PATTERNS).format(**words)
        found[sentence[0].upper() + sentence[1:]] = None
    return list(found)
