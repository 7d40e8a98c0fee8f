"""An endless play whose entropy is known: the corpus for a machine without a network.

A probabilistic grammar writes exchanges in blank verse (a guest speaks, a host replies), each drawn
independently of the last. We wrote the grammar, so we can compute what nobody knows of Shakespeare:
the theoretical minimum of the loss. No model, whatever its size, predicts the next character better
on average than the entropy computed here.

A grammar rewrites a symbol A by one of its rules, by rule r with probability p_r. A symbol {B} that
stands in r is rewritten in its turn:

    H(A) = Σ_r p_r (−log p_r + Σ_{B in r} H(B))        expected −log p of A's text, in nats
    L(A) = Σ_r p_r (length of r + Σ_{B in r} L(B))     expected length of A's text, in characters

    entropy per character = H(exchange) / L(exchange)

Let M[A, B] be the expected number of B's in one rewriting of A. Then H = h + M H and L = l + M L
are linear systems, solved exactly even where a symbol leads back to itself; nothing is sampled. The
quotient is the rate at which −log p grows along the text (the renewal-reward theorem).

H counts choices, and is the entropy of the text only if no text can be written in two ways. None
can, because every symbol obeys one law:

    what one of its rules writes never begins what another of its rules writes.

Then a symbol's texts form a prefix code, and so do those of a sequence of symbols, since each text
ends where only it can end. So at most one rule fits at each place, a text is read left to right in
one way only, and its probability is the product of the probabilities of its choices. The tests
prove the law for every pair of rules.

Source      Shannon 1948, "A Mathematical Theory of Communication", sections 6 and 7
            Soule 1974, "Entropies of Probabilistic Grammars", Information and Control 25, 57-74
"""

import re
from bisect import bisect
from collections.abc import Mapping
from itertools import accumulate
from math import log
from typing import NamedTuple

import numpy as np


class Rule(NamedTuple):
    """One way to rewrite a symbol: literal text, then symbols, each with the literal after it."""

    p: float
    head: str
    tail: tuple[tuple[str, str], ...]


Grammar = Mapping[str, tuple[Rule, ...]]


def grammar_of(weights: Mapping[str, Mapping[str, float]]) -> Grammar:
    """The rules of {symbol: {production: weight}}; a symbol's weights are scaled to sum to 1."""

    def rule(p: float, production: str) -> Rule:
        head, *rest = re.split(r"\{(\w+)\}", production)
        return Rule(p, head, tuple(zip(rest[::2], rest[1::2], strict=True)))

    return {
        symbol: tuple(rule(w / sum(choices.values()), text) for text, w in choices.items())
        for symbol, choices in weights.items()
    }


def one_of(phrases: str) -> dict[str, int]:
    """Equally likely productions, listed with commas between them."""
    return dict.fromkeys(" ".join(phrases.split()).split(", "), 1)


def capital(production: str) -> str:
    """Raise the first letter, also in a symbol's name: "{det} {thing}" to "{Det} {thing}"."""
    return re.sub("[a-z]", lambda letter: letter[0].upper(), production, count=1)


# Every line is an iambic pentameter, ten syllables, weak STRONG weak STRONG:
#
#     The MER-ry FOX hath CHARMED the SIL-ver MOON.
#
# It scans because the words of a list share a metre: an {adj} is STRONG weak; a {thing}, a {being}
# or a deed to {do} is one STRONG syllable; a {manner} is weak STRONG. No {adj}, {thing} or {being}
# begins with the sound of a vowel, so "a" need never be "an".

LINES = {
    # A guest thinks aloud, then asks, taunts or takes leave. A host answers, then thinks aloud.
    "exchange": {"{guest}:\n{opening}": 1},
    "opening": {
        "{thought}\n{opening}": 26,
        "{news}\n\n{host}:\n{tidings}\n{rest}": 2,
        "{where}\n\n{host}:\n{there}\n{rest}": 2,
        "{who}\n\n{host}:\n{someone}\n{rest}": 2,
        "{why}\n\n{host}:\n{because}\n{rest}": 2,
        "{whether}\n\n{host}:\n{perhaps}\n{rest}": 2,
        "{taunt}\n\n{host}:\n{retort}\n{rest}": 2,
        "{farewell}\n\n{host}:\n{godspeed}\n{rest}": 1,
    },
    "rest": {"\n": 1, "{thought}\n{rest}": 2},
    "news": {
        "{hail}! What news of {woe} and {woe}?": 2,
        "{hail}! How fares {det} {trade}'s {being}?": 1,
    },
    "tidings": {
        "But little, {friend}: {the_thing} is {done}.": 1,
        "The {trade} {done} {det} {trade}, so they say.": 1,
        "The news is {wise}: {the_being} {must} {act}.": 1,
    },
    "where": {
        "Where is {the_thing} {det} {being} hath {done}?": 1,
        "Where doth {the_being} now {act} {manner}?": 1,
    },
    "there": {
        "{Beyond} the {spot}, {beyond} {the_thing}.": 1,
        "Go seek {beyond} the {spot}, {beyond} the {spot}.": 1,
        "Ask {servant}, for {servant} was last {beyond} the {spot}.": 1,
    },
    "who": {
        "Who {done} {the_thing} {beyond} the {spot}?": 1,
        "What {being} hath {done} {the_thing} {manner}?": 1,
    },
    "someone": {
        "'Twas {servant}, who {done} {det} {trade}'s {being} {manner}.": 1,
        "The {trade}, by my {thing} and by thy {thing}!": 1,
        "Not I, my {friend}; go ask {det} {trade}'s {being}.": 1,
    },
    "why": {
        "Why doth {the_being} so {act} {manner}?": 1,
        "Why dost thou {do} {the_thing} {manner}?": 1,
    },
    "because": {
        "Because {the_thing} hath {done} {det} {being}.": 1,
        "For {woe}, my {friend}, and somewhat for {det} {thing}.": 1,
        "Ask me not why: ask {woe}, ask {woe}, ask {woe}.": 1,
    },
    "whether": {
        "And wilt thou {do} {the_thing} {manner}?": 1,
        "Say, shall I {do} {the_thing}, or {act}?": 1,
    },
    "perhaps": {
        "Ay, {act}, my {friend}, and {do} {the_thing}.": 1,
        "Nay, never, while {the_being} doth {act}!": 1,
        "Perchance; but {woe} is {adj}, and I {act}.": 1,
    },
    "taunt": {
        "Thou {adj} {being}, thou {thing} without a {thing}!": 2,
        "Thou art no {being}, but half a {adj} {thing}!": 1,
    },
    "retort": {
        "Better a {being} than such a {adj} {thing}.": 1,
        "I thank thee: thou art {wise} as any {thing}.": 1,
        "Say that again, and I shall {do} {det} {thing}.": 1,
    },
    "farewell": {"Farewell, my {friend}; I go to {do} {det} {thing}.": 1},
    "godspeed": {
        "God speed thee, {friend}, and keep thee from {det} {being}.": 1,
        "Then take {the_thing}, and do not {act}.": 1,
        "Go, then, and {do} {the_thing} {manner}!": 1,
    },
    # What either may think, aloud.
    "thought": {
        "{The_being} {must} {do} {the_thing}.": 14,
        "{The_being} hath {done} {the_thing}.": 14,
        "{The_being}, {the_thing}, and {woe}!": 6,
        "{Det} {being}, {det} {being}, {det} {thing}: all {act} {manner}.": 6,
        "{The_thing} {must} {act} {beyond} the {spot}.": 5,
        "{alas}, {the_being} {must} {act} {manner}.": 5,
        "{Act}, {adj} {being}, and {do} {the_thing}!": 9,
        "O {adj} {thing}, thou {thing} of {woe}, {arise}!": 5,
        "I {done} {the_thing} {beyond} the {spot}.": 4,
        "I'll {do} {the_thing} and {do} {det} {being}.": 6,
        "I'd give {det} {thing} to {do} {the_being}.": 2,
        "I dreamt {the_being} became a {thing}.": 2,
        "I am no {being}, but I can {do} {det} {thing}.": 1,
        "Had I {the_thing}, I would not {act}.": 2,
        "They say {the_being} {must} {act} {manner}.": 3,
        "See how {the_thing} {must} {act} {manner}!": 3,
        "{Det} {trade} {loves} {det} {trade}'s {adj} {thing}.": 5,
        "{servant} saw {det} {trade} {do} {det} {trade}'s {being}.": 3,
        "Go, {servant}, and {fetch} {the_thing} {manner}.": 3,
        "Come, {servant}, and {act}! {The_thing} is {done}.": 3,
        "Hush, {servant}! The {trade} {sleeps} {beyond} the {spot}.": 2,
        "There is no {thing} so {adj} as {det} {being}.": 2,
        "Was ever {being} so {adj} and so {wise}?": 2,
        "How {wise} {det} {thing}, how {adj} is {det} {being}!": 3,
        "What's this? A {thing}! A {adj}, {adj} {thing}!": 2,
        "No {thing}, no {thing}, no {adj} {thing} for me!": 2,
        "{Woe} is a {adj} {thing}, and {woe} a {being}.": 4,
        "If {woe} be but a {adj} {thing}, what then?": 1,
        "'Tis {woe}, not {woe}, that makes the {trade} {act}.": 2,
        "Some {act} for {woe}, and some for want of {woe}.": 1,
        "Let {woe} go {act}, let {woe} go {act}; I'll {act}.": 1,
        # Two lines to a thought.
        "When {woe} doth {act}, and {woe} doth {act} no more,\n"
        "Then shall {the_thing} be {done} {manner}.": 1,
        "As {trade}s {do} {the_thing} {manner},\n"
        "So must I {do} {det} {being} {beyond} the {spot}.": 2,
        "First {do} {the_thing}, then {do} {det} {being},\n"
        "Then {act} {beyond} the {spot}, and {act} {manner}.": 1,
        "What {sleeps} {beyond} the {spot}, yet hath no {thing}?\n"
        "The {trade}'s {thing}, the {trade}'s {adj} {thing}!": 1,
        # Asides, which nobody else on the stage can hear.
        "(Now, by my {thing}, I {do} the {adj} {being}.)": 1,
        "(My {friend} must never know I {done} {det} {thing}.)": 1,
        "{delight}": 1,
    },
    "delight": {
        "The cheese is in the clock. Ask not how long.": 1,
        "My goose hath read the law, and finds it thin.": 1,
        "I wrote a sonnet once; the dog approved.": 1,
        "I counted every star, and one was mine.": 1,
        "The moon doth owe me sixpence and a shoe.": 1,
        "So ends the tale, and so begins the soup.": 1,
        "Nine times I fell, and eight times blamed the stair.": 1,
        "A pun walked in, and no one let it out.": 1,
    },
    # The words.
    "the_thing": {"{det} {adj} {thing}": 3, "{det} {thing} of {woe}": 1},
    "the_being": {"{det} {adj} {being}": 3, "{det} {being} of {woe}": 1},
    "det": {"the": 4, "my": 2, "thy": 2} | one_of("this, that, our, his, her"),
    "guest": one_of("AMBROSE, BRIDGET, DUNSTAN, ELLYN, HESTER, JASPER"),
    "host": one_of("BALDWIN, CRISPIN, ISBEL, MABEL, OSBERT, URSEL"),
    "servant": one_of("Bess, Hob, Jill, Kit, Meg, Ned, Tom, Wat"),
    "friend": one_of("friend, coz, heart, dove"),
    "hail": {"Good morrow, {friend}": 1, "God save thee, {friend}": 1, "Well met, my {friend}": 1},
    "alas": one_of("Alas, Ah me, Behold, Forsooth, Good faith, I swear, Indeed, Methinks"),
    "arise": one_of("arise, begone, be still, awake, take heed, adieu"),
    "must": one_of("must, shall, will, may, doth, can"),
    "manner": one_of("""again, alone, at dusk, at noon, by night, for gold, for love, in haste, in
        vain, too late"""),
    "beyond": one_of("above, behind, beneath, beyond"),
    "spot": one_of("barn, bed, bridge, church, hill, mill, moat, wood"),
    "adj": one_of("""bitter, crooked, drowsy, foolish, gentle, golden, jealous, merry, mighty,
        patient, purple, silver, sleepy, weary"""),
    "wise": one_of("bold, brave, fair, mad, pale, proud, sweet, wise"),
    "thing": one_of("""bell, book, cheese, clock, crown, drum, harp, lamp, moon, pie, ring, rose,
        shoe, spoon, star, sword"""),
    "being": one_of("""bride, cat, crow, duke, fool, fox, ghost, goat, goose, king, knave, queen,
        snail, witch"""),
    "trade": one_of("baker, butler, captain, doctor, lawyer, miller, poet, sailor"),
    "woe": one_of("death, fear, grief, hope, joy, love, luck, pride, time, truth"),
    "do": one_of("bless, charm, chase, find, kiss, mock, praise, rob, scorn, seek"),
    "done": one_of("""blessed, charmed, chased, found, kissed, mocked, praised, robbed, scorned,
        sought"""),
    "loves": one_of("fears, hates, hides, keeps, loves, steals"),
    "fetch": one_of("bring, hide, mend, paint, sell, wash"),
    "act": one_of("burn, dance, die, dream, fade, laugh, sing, sleep, sneeze, snore, wait, weep"),
    "sleeps": one_of("dreams, hums, prays, sings, sleeps, snores, waits"),
}

# At the head of a line a word has a capital: {Woe} is one of {woe}, raised.
AT_LINE_START = ("the_thing", "the_being", "det", "woe", "act", "beyond")
PLAY = grammar_of(
    LINES | {capital(s): {capital(p): w for p, w in LINES[s].items()} for s in AT_LINE_START}
)


def generate(n_characters: int = 1_000_000, seed: int = 0) -> str:
    """Exactly n_characters of the play, fixed by the seed; the last exchange may be cut short."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    # A uniform number in [0, 1) falls between the bounds of rule i with probability p_i.
    bounds = {s: list(accumulate(rule.p for rule in rules))[:-1] for s, rules in PLAY.items()}
    pieces: list[str] = []

    def write(symbol: str) -> int:
        rule = PLAY[symbol][bisect(bounds[symbol], rng.random())]
        pieces.append(rule.head)
        length = len(rule.head)
        for child, literal in rule.tail:
            length += write(child) + len(literal)
            pieces.append(literal)
        return length

    length = 0
    while length < n_characters:
        length += write("exchange")
    return "".join(pieces)[:n_characters]


def expectations(grammar: Grammar = PLAY) -> dict[str, tuple[float, float]]:
    """{A: (H(A), L(A))}: the expected −log p, in nats, and length, in characters, of A's text."""
    row = {symbol: i for i, symbol in enumerate(grammar)}
    m = np.zeros((len(grammar), len(grammar)))
    own = np.zeros((len(grammar), 2))  # columns h and l: what a rewriting gives without its symbols
    for symbol, rules in grammar.items():
        for rule in rules:
            length = len(rule.head) + sum(len(literal) for _, literal in rule.tail)
            own[row[symbol]] += -rule.p * log(rule.p), rule.p * length
            for child, _ in rule.tail:
                m[row[symbol], row[child]] += rule.p
    solution = np.linalg.solve(np.eye(len(grammar)) - m, own)
    return {symbol: (float(solution[i, 0]), float(solution[i, 1])) for symbol, i in row.items()}


def entropy_per_character(grammar: Grammar = PLAY, start: str = "exchange") -> float:
    """The entropy of the play in nats per character: the least expected loss of any model."""
    nats, characters = expectations(grammar)[start]
    return nats / characters


def read(text: str, position: int, symbol: str) -> tuple[float, int] | None:
    """Read a symbol's text at `position`: (its −log p in nats, its end), None if none is there."""
    for rule in PLAY[symbol]:
        if not text.startswith(rule.head, position):
            continue
        nats, end = -log(rule.p), position + len(rule.head)
        for child, literal in rule.tail:
            found = read(text, end, child)
            if found is None or not text.startswith(literal, found[1]):
                break
            nats, end = nats + found[0], found[1] + len(literal)
        else:
            return nats, end  # by the law no other rule fits, so there is no need to look on
    return None


def negative_log_likelihood(text: str) -> tuple[float, int]:
    """The play's own −log p of a text it wrote: (nats, characters) of the whole exchanges inside.

    The text may be a slice: an exchange that it cuts, at either end, is left out of both numbers.
    Raises ValueError if the play did not write the text, or if no whole exchange is in it.
    """
    # Each of an exchange's two speeches ends in a blank line, so the first whole exchange starts at
    # the very beginning or after one of the first two. Or three: half a blank line at the beginning
    # may be a speech's end, or only the newline after a speaker's name.
    blank_lines = [match.end() for match in re.finditer(r"\n\n|^\n", text)]
    starts = [0, *blank_lines[:3]]
    first = next((start for start in starts if read(text, start, "exchange")), 0)
    nats, position = 0.0, first
    while found := read(text, position, "exchange"):
        nats, position = nats + found[0], found[1]
    if position == first or text.count("\n\n", position) > 1:
        line = text.count("\n", 0, position) + 1
        raise ValueError(f"verse: from line {line} on, the text is not an exchange of the play")
    return nats, position - first
