"""Byte-pair encoding: the most frequent pieces of a text become tokens.

Begin with the 256 bytes as tokens.  Find the most frequent pair of adjacent tokens, make it a new
token, and replace the pair by it everywhere.  Repeat until the vocabulary is large enough.  In a
text like `low lower lowest`, `lo` comes first, then `low`, then ` low` ...

The text then has fewer tokens: a model sees further in a window of T tokens, but has more tokens to
choose among.  Any text can be written in bytes, so no character is unknown.

Sources: Gage 1994, "A New Algorithm for Data Compression"; Sennrich, Haddow & Birch 2016, "Neural
Machine Translation of Rare Words with Subword Units", arXiv:1508.07909; over bytes, and with this
pattern: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2).
"""

import heapq
from collections import Counter

import numpy as np
import regex

# A text is first cut into words, and no token crosses a cut.  A word is the end of a contraction;
# or letters, digits or other signs in a row, with the space before them; or spaces without the last
# one, which belongs to the next word.  (++ is + that never backtracks, which needs no memory.)
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

# The 256 bytes in the order of their ids, which is GPT-2's: visible characters come first.
VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = VISIBLE + sorted(set(range(256)) - set(VISIBLE))
ID_OF_BYTE = np.argsort(BYTES)  # (256,): byte -> id

Merge = tuple[int, int]  # the ids of a left and a right neighbour
BETWEEN = -1  # separates two words


def learn(text: str, vocab_size: int) -> list[Merge]:
    """Return the pairs that become tokens 256, 257, ..., vocab_size − 1, in this order.

    Of equally frequent pairs the one with the smaller ids comes first, left before right.  There
    are fewer merges if no pair occurs twice any more.

    Counting all pairs after every merge would read the whole text each time.  Three things save
    that: each different word is read once, however often it occurs; NumPy finds the places of a
    pair; and only the pairs around these places are counted again.  A heap has the most frequent
    pair on top.  It also has outdated counts, which are dropped when they come up.
    """
    ids, weights = words_in_a_row(text)
    counts: Counter[Merge] = Counter()
    heap: list[tuple[int, Merge]] = []

    def count(places, sign):
        """Add the pairs that begin at `places` to the counts, or subtract them."""
        for pair, n in pairs_at(ids, weights, places):
            counts[pair] += sign * n
            heapq.heappush(heap, (-counts[pair], pair))

    count(np.arange(len(ids) - 1), +1)
    merges: list[Merge] = []
    while len(merges) < vocab_size - 256 and heap:
        n, pair = heapq.heappop(heap)
        if -n != counts[pair]:
            continue
        if -n < 2:
            break
        places = places_of(pair, ids)
        count(around(places, 1), -1)  # all pairs with a part in what is replaced
        ids[places] = 256 + len(merges)
        rest = np.ones(len(ids), bool)
        rest[places + 1] = False  # remove the right halves
        ids, weights = ids[rest], weights[rest]  # so the k-th place moves k to the left
        count(around(places - np.arange(len(places)), 0), +1)
        merges.append(pair)
    return merges


def words_in_a_row(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (ids, weights): the bytes of all different words, and how often their words occur.

    BETWEEN is before, between and after the words.
    """
    found = Counter(regex.findall(PATTERN, text))
    spelled = [word.encode() for word in found]
    lengths = np.array([len(word) + 1 for word in spelled], int)
    ids = np.full(1 + lengths.sum(), BETWEEN)
    inside = np.ones(len(ids), bool)
    inside[np.cumsum(np.append(0, lengths))] = False
    ids[inside] = ID_OF_BYTE[np.frombuffer(b"".join(spelled), np.uint8)]
    weights = np.append(np.repeat(np.array([*found.values()], int), lengths), 0)
    return ids, weights


def pairs_at(ids, weights, places):
    """Return [((left, right), how often)] of the pairs inside words that begin at `places`."""
    left, right = ids[places], ids[places + 1]
    inside = (left != BETWEEN) & (right != BETWEEN)
    codes, which = np.unique(left[inside] << 32 | right[inside], return_inverse=True)
    n = np.bincount(which, weights[places + 1][inside]).astype(int)
    pairs = zip((codes >> 32).tolist(), (codes & 0xFFFFFFFF).tolist(), strict=True)
    return zip(pairs, n.tolist(), strict=True)


def places_of(pair, ids):
    """Return where the pair begins; in x x x x, at the first and the third x."""
    left, right = pair
    places = np.flatnonzero((ids[:-1] == left) & (ids[1:] == right))
    if left != right or not len(places):
        return places
    starts = np.append(True, np.diff(places) > 1)  # where a row begins
    first = np.maximum.accumulate(np.where(starts, places, 0))
    return places[(places - first) % 2 == 0]


def around(places, extra):
    """Return where the pairs begin that have a part at `places` or the next `extra` places."""
    return np.unique(np.concatenate([places + shift for shift in range(-1, extra + 1)]))
