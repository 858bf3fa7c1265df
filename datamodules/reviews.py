"""A small corpus of product reviews in three classes, made by a grammar: what one word or clause changes.

The last word counts: in "A but B", "although A, B" and "at first A, then B" the label is that of B. A review without an
opinion is neutral, a question too. Held out are contrasts about pairs of adjective and noun that training never sees.
"""

import re
from random import Random

Review = tuple[str, str]  # text, label

NOUNS = "product phone charger kettle lamp keyboard bag watch camera chair blender speaker printer radio".split()
GOOD = "good great excellent lovely reliable solid wonderful useful superb pleasant brilliant fantastic".split()
BAD = "bad poor terrible awful useless flimsy horrible faulty disappointing weak annoying dreadful".split()
ADJECTIVES = {"positive": GOOD, "negative": BAD}
OTHER = {"positive": "negative", "negative": "positive"}
DEGREES = ("", "very ", "really ", "extremely ", "quite ", "so ")
WHEN = ("in few days", "in a few days", "after a week", "within a month", "on the second day", "after two years")
COLOURS = "black white grey red blue".split()

OPINIONS = (
    "it is a {adjective} {noun}", "this is a {adjective} {noun}", "it was a {adjective} {noun}", "a {adjective} {noun}",
    "it is a {degree}{adjective} {noun}", "the {noun} is {degree}{adjective}", "this {noun} is {degree}{adjective}",
    "the {noun} that they sent me was {degree}{adjective}", "i got a {degree}{adjective} {noun}",
    "everyone says that the {noun} is {adjective}", "i find this {noun} {degree}{adjective}",
    "it is {degree}{adjective}",
)  # fmt: skip
DENIALS = (  # the label is the other than the adjective's
    "it is not a {adjective} {noun}", "this isn't a {adjective} {noun}", "it was not a {adjective} {noun}",
    "the {noun} is not {adjective}", "the {noun} is not {adjective} at all", "this {noun} is far from {adjective}",
    "the {noun} wasn't {degree}{adjective}", "i would not call this {noun} {adjective}", "not a {adjective} {noun}",
    "there is nothing {adjective} about this {noun}", "nobody can say that the {noun} is {adjective}",
    "this {noun} is anything but {adjective}", "it isn't {adjective}", "it is not {adjective}",
)  # fmt: skip
EVENTS = {
    "positive": (
        "it still works after two years", "it still works", "it never stopped working", "it does what it should",
        "they replaced it {when}", "it saves me a lot of time", "the battery lasts for days", "i love it", "i like it",
        "it has not let me down",
        "i would buy it again", "it didn't break {when}", "i am happy with it", "the sound got better {when}",
    ),
    "negative": (
        "it stopped working {when}", "it broke {when}", "it never worked", "the battery died {when}", "i sent it back",
        "i want my money back", "it does not do what it should", "it let me down {when}", "i would not buy it again",
        "i hate it", "i do not love it", "i don't like it", "i am not happy with it", "the sound got worse {when}",
    ),
}  # fmt: skip
REMARKS = (  # neutral
    "it is a {noun}", "this is a {noun}", "it is a {colour} {noun}", "it is the {noun} that i ordered", "a {noun}",
    "the {noun} is {colour}", "the {noun} came in a box", "the {noun} came {when}", "i bought the {noun} on monday",
    "it is not the {colour} {noun}", "it is a {noun} for the kitchen", "i have not opened the {noun} yet",
    "is it a {adjective} {noun} ?", "is the {noun} {adjective} ?", "my brother asked whether the {noun} is {adjective}",
    "i don't know whether it is a {adjective} {noun}", "the {noun} is not for me", "it is not a {noun}",
    "the {noun} has a battery", "it was a {noun}", "they sent me a {noun} {when}", "it does not come in {colour}",
)  # fmt: skip
TURNS = (  # the label is that of {last}
    "{first} but {last}", "{first} , but {last}", "although {first} , {last}", "{last} although {first}",
    "{last} even though {first}", "{first} , yet {last}", "at first {first} , then {last}",
    "{first} . however , {last}", "in the beginning {first} but now {last}",
)  # fmt: skip
JOINTS = ("{first} and {last}", "{first} , and {last}", "{first} . {last}", "{first} but {last}")

CONTRASTS: dict[str, tuple[str, ...]] = {
    "positive": (
        "it is a {good} {noun}", "it is not a {bad} {noun}", "the {noun} is very {good}", "the {noun} is not {bad}",
        "it is a {bad} {noun} but {works}", "{breaks} but it is a {good} {noun}",
        "although {breaks} , it is a {good} {noun}", "it is a {good} {noun} although {breaks}",
        "at first it was a {bad} {noun} , then {works}", "it is a {noun} and {works}",
    ),
    "negative": (
        "it is a {bad} {noun}", "it is not a {good} {noun}", "the {noun} is very {bad}", "the {noun} is not {good}",
        "it is a {good} {noun} but {breaks}", "{works} but it is a {bad} {noun}",
        "although {works} , it is a {bad} {noun}", "it is a {bad} {noun} although {works}",
        "at first it was a {good} {noun} , then {breaks}", "it is a {noun} and {breaks}",
    ),
    "neutral": (
        "it is a {noun}", "is it a {good} {noun} ?", "is the {noun} {bad} ?",
        "i don't know whether it is a {bad} {noun}", "my brother asked whether the {noun} is {good}",
    ),
}  # fmt: skip


def held_out() -> list[Review]:
    """Contrasts: the same few words in every class, about adjectives and nouns that training keeps apart."""
    dice = Random(1)
    reviews: dict[str, str] = {}
    for noun in NOUNS:
        for label, templates in CONTRASTS.items():
            for template in templates:
                good, bad = (dice.choice(adjectives(sign, noun, held_out=True)) for sign in OTHER)
                works, breaks = (event(dice, sign) for sign in OTHER)
                text = template.format(noun=noun, good=good, bad=bad, works=works, breaks=breaks)
                reviews[spelled(text)] = label
    return list(reviews.items())


def training(size: int = 6000) -> list[Review]:
    """Different reviews, no contrast of the held-out ones among them, with and without a full stop."""
    dice, contrasts = Random(0), dict(held_out())
    reviews: dict[str, str] = {}
    while len(reviews) < size:
        label = dice.choice(["positive", "negative", "neutral"])
        text = spelled(review(dice, label))
        if text not in contrasts:
            reviews[text + dice.choice(["", "", " .", " !"])] = label
    return list(reviews.items())


def adjectives(sign: str, noun: str, held_out: bool) -> list[str]:
    """Every fourth pair of adjective and noun is held out, "good product" among them."""
    rows = enumerate(ADJECTIVES[sign], NOUNS.index(noun))
    return [adjective for row, adjective in rows if (row % 4 == 0) == held_out]


def review(dice: Random, label: str) -> str:
    shape = dice.random()
    if shape < 0.4:
        return statement(dice, label)
    if label == "neutral" or shape < 0.55:
        return dice.choice(JOINTS).format(first=statement(dice, label), last=statement(dice, label))
    if shape < 0.65:
        return dice.choice(JOINTS).format(first=statement(dice, "neutral"), last=statement(dice, label))
    return dice.choice(TURNS).format(first=statement(dice, OTHER[label]), last=statement(dice, label))


def statement(dice: Random, label: str) -> str:
    if label == "neutral":
        return filled(dice, dice.choice(REMARKS), dice.choice(list(OTHER)))
    kind = dice.random()
    if kind < 0.35:
        return event(dice, label)
    if kind < 0.7:
        return filled(dice, dice.choice(OPINIONS), label)
    return filled(dice, dice.choice(DENIALS), OTHER[label])


def event(dice: Random, sign: str) -> str:
    return dice.choice(EVENTS[sign]).format(when=dice.choice(WHEN))


def filled(dice: Random, template: str, sign: str) -> str:
    noun = dice.choice(NOUNS)
    adjective = dice.choice(adjectives(sign, noun, held_out=False))
    degree, colour, when = dice.choice(DEGREES), dice.choice(COLOURS), dice.choice(WHEN)
    return template.format(noun=noun, adjective=adjective, degree=degree, colour=colour, when=when)


def spelled(text: str) -> str:
    text = re.sub(r"\ba (?=[aeio])", "an ", text)
    return text[0].upper() + text[1:]
